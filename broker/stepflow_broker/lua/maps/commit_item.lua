-- commit_item: store how an item of a map has ended, once, delete its job, and hand out the next item.
-- USES     clock jobs waits state concurrency attempts indexes runs invokes maps map_items
-- KEYS     1 run
-- ARGV     1 now_ms  2 run  3 step_key  4 fence  5 memo
-- MOVES    step leased -> none; end_item
-- RETURNS  1 STORED, 0 ALREADY_STORED, -1 NO_RUN, -2 STALE_FENCE
local run, key, fence, memo = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local was, held, tried = read_run(run), holds_step(run, key, fence)
local map, digest, index = MAPS.of_item(key)

local function end_job()
  local job = job_of(run, key)
  drop_lease(job, list_of_step(run, was, key), fence)
  redis.call('DEL', RQ_JOB .. job)
  drop_planned_step(run, was, key, tried)
end

local function push(job, _, _, list, description, now)
  push_job(job, list, description, now)
  return 'queued'
end

if held and not was.concurrency then
  local m = MAPS.read(run, map)
  if MAPS.awaits(m, digest, index) and not MAPS.is_stopped_by(m, memo) then
    end_job()
    if MAPS.store_end(run, was, map, m, index, memo) then
      MAPS.hand_out(run, was, map, m, 2, clock(ARGV[1]), push)
    end
    return 1
  end
end
-- REST: a call that is repeated or too late, an item that stops its map, and a run with concurrency limits
if not held then return redis.call('HGET', ITEMS .. run .. ':' .. map, index) == memo and 0 or refusal(was) end
local now = clock(ARGV[1])
end_job()
release_slots(job_of(run, key), was, now)
MAP_ITEMS.end_item(run, was, key, memo, now)
return 1
