-- commit_item: store how an item of a map has ended, once, delete its job, and hand out the next item.
-- USES     clock jobs waits state concurrency attempts indexes runs invokes maps
-- KEYS     1 run
-- ARGV     1 now_ms  2 run  3 step_key  4 fence  5 memo
-- MOVES    step leased -> none; end_item
-- RETURNS  1 STORED, 0 ALREADY_STORED, -1 NO_RUN, -2 STALE_FENCE
local now, run, key, fence, memo = clock(ARGV[1]), ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local was, held, tried = read_run(run), holds_step(run, key, fence)
if not held then
  local map, _, index = MAPS.of_item(key)
  return redis.call('HGET', ITEMS .. run .. ':' .. map, index) == memo and 0 or refusal(was)
end
local job = job_of(run, key)
end_lease(job, was, list_of_step(run, was, key), fence, now)
redis.call('DEL', RQ_JOB .. job)
drop_planned_step(run, was, key, tried)
MAPS.end_item(run, was, key, memo, now)
return 1
