-- commit_planned_step: store the memo of a step that had a job of its own, once, drop the job, and let the run go on.
-- A resend alone is told that the memo is stored already: a worker whose result is another must not go on with it.
-- USES     clock jobs runs
-- KEYS     1 run  2 memos  3 order
-- ARGV     1 now_ms  2 run  3 step_key  4 fence  5 memo  6 worker
-- MOVES    leased step -> (memo); the run: waiting -> queued
-- RETURNS  {1 STORED | 0 ALREADY_STORED | -1 NO_RUN | -2 STALE_FENCE, position}
local run, key, fence, memo = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
if not holds(run, key, fence) then
  if redis.call('HGET', KEYS[2], key) == memo then return {0, redis.call('LPOS', KEYS[3], key) + 1} end
  return {is_live(run) and -2 or -1, 0}
end
drop_job(job_of(run, key), fence)
local stored, position = record_memo(run, key, memo)
memo_comes(run, key, position, memo, clock(ARGV[1]), ARGV[6])
return {stored, position}
