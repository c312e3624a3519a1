-- commit_planned_step: store the memo of a planned step, once, delete its job, and continue the run.
-- Only a repeated call, with an equal memo, gets ALREADY_STORED. A worker with another result must not continue with
-- it.
-- USES     clock jobs waits state concurrency attempts indexes runs
-- KEYS     1 run  2 memos  3 memo_order
-- ARGV     1 now_ms  2 run  3 step_key  4 fence  5 memo  6 worker
-- MOVES    step leased -> memo; wake
-- RETURNS  {1 STORED | 0 ALREADY_STORED | -1 NO_RUN | -2 STALE_FENCE, position}
local run, key, fence, memo = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local was, held, tried = read_run(run), holds_step(run, key, fence)
local job = job_of(run, key)

local function store()
  drop_lease(job, list_of_step(run, was, key), fence)
  redis.call('DEL', RQ_JOB .. job)
  drop_planned_step(run, was, key, tried)
  return record_memo(run, was, key, memo)
end

if held and was.continuation and not was.concurrency then
  local stored, position = store()
  notify_holder(run, was, key, position, ARGV[6])
  return {stored, position}
end
-- REST: a call that is repeated or too late, a run that is parked, and one with concurrency limits
if not held then
  if redis.call('HGET', KEYS[2], key) == memo then return {0, redis.call('LPOS', KEYS[3], key) + 1} end
  return {refusal(was), 0}
end
local now = clock(ARGV[1])
local stored, position = store()
release_slots(job, was, now)
wake_run(run, was, key, position, now, ARGV[6])
return {stored, position}
