-- commit_planned_step: store the memo of a planned step, once, delete its job, and continue the run.
-- Only a repeated call, with an equal memo, gets ALREADY_STORED. A worker with another result must not continue with
-- it.
-- USES     clock jobs waits state concurrency attempts indexes runs
-- KEYS     1 run  2 memos  3 memo_order
-- ARGV     1 now_ms  2 run  3 step_key  4 fence  5 memo  6 worker
-- MOVES    step leased -> memo; wake
-- RETURNS  {1 STORED | 0 ALREADY_STORED | -1 NO_RUN | -2 STALE_FENCE, position}
local now, run, key, fence, memo = clock(ARGV[1]), ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local was, held, tried = read_run(run), holds_step(run, key, fence)
if not held then
  if redis.call('HGET', KEYS[2], key) == memo then return {0, redis.call('LPOS', KEYS[3], key) + 1} end
  return {refusal(was), 0}
end
local job = job_of(run, key)
end_lease(job, was, list_of_step(run, was, key), fence, now)
redis.call('DEL', RQ_JOB .. job)
drop_planned_step(run, was, key, tried)
local stored, position = record_memo(run, was, key, memo)
wake_run(run, was, key, position, now, ARGV[6])
return {stored, position}
