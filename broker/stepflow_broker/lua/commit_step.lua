-- commit_step: store a step's memo once; release its job if it has one of its own, and let the run go on.
-- The run's continuation is kept by the worker that holds it ('keep'), or queued again ('yield').
-- USES     clock jobs runs
-- KEYS     1 run  2 memos  3 order
-- ARGV     1 now_ms  2 run  3 job_key ('' for the continuation)  4 fence  5 step_key  6 memo  7 then  8 worker
-- MOVES    running -> running (keep), running -> queued (yield), waiting -> queued (a planned step)
-- RETURNS  {1 STORED | 0 ALREADY_STORED | -1 NO_RUN | -2 STALE_FENCE, position}
local run, job_key, fence, key, memo = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
if not holds(run, job_key, fence) then
  local position = redis.call('LPOS', KEYS[3], key)
  if position then return {0, position + 1} end
  return {is_live(run) and -2 or -1, 0}
end
if job_key ~= '' then drop_job(job_of(run, key), fence) end
local stored, position = record_memo(run, key, memo)
if job_key ~= '' then
  memo_comes(run, key, position, memo, clock(ARGV[1]), ARGV[8])
elseif ARGV[7] == 'yield' then
  drop_lease(run, fence)
  requeue_run(run, clock(ARGV[1]))
end
return {stored, position}
