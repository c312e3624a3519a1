-- leave_job: leave a leased job to workers with another version of its code, at once and without an attempt.
-- The code of this worker lacks the step of the job, or has a step of another kind with its id.
-- USES     clock jobs waits state concurrency attempts indexes runs code
-- KEYS     1 run  2 steps  3 code_waits
-- ARGV     1 now_ms  2 run  3 step_key ('' for the continuation)  4 fence  5 version (of the code of this worker)
-- MOVES    run running -> queued; continuation leased -> waitlisted; step leased -> waitlisted; promote
-- RETURNS  1 LEFT, 0 NO_OTHER_VERSION (no live worker has one, or the run is
--          pinned: the lease is kept), -1 NO_RUN, -2 STALE_FENCE
local now, run, key, fence, version, was = clock(ARGV[1]), ARGV[2], ARGV[3], ARGV[4], ARGV[5], read_run(ARGV[2])
local held
if key == '' then held = holds_run(was, fence) else held = holds_step(run, key, fence) end
if not held then return refusal(was) end
local left_by
if key == '' then
  left_by = redis.call('HGET', KEYS[1], 'left_by') or ''
else
  left_by = redis.call('HGET', KEYS[2], key .. ':left_by') or ''
end
if not string.find(' ' .. left_by .. ' ', ' ' .. version .. ' ', 1, true) then
  left_by = left_by == '' and version or left_by .. ' ' .. version
end
local name = was.app .. '/' .. was.function_id
if redis.call('HEXISTS', KEYS[1], 'pinned') == 1 then return 0 end
if not has_other_version(name, left_by, now) then return 0 end
local list = key == '' and was.list or list_of_step(run, was, key)
local job, subject = job_of(run, key), list .. '\n' .. name .. '\n' .. left_by
end_lease(job, was, list, fence, now)
if key == '' then
  redis.call('HDEL', KEYS[1], 'lease', 'list', 'owner', 'leased_at', 'executing', 'blocked')
  redis.call('HSET', KEYS[1], 'status', 'queued', 'left_by', left_by)
else
  redis.call('HDEL', KEYS[2], key .. ':lease', key .. ':owner', key .. ':leased_at')
  redis.call('HSETNX', KEYS[2], key .. ':attempt', 0)
  redis.call('HSET', KEYS[2], key .. ':left_by', left_by)
end
defer(job, run, key, was, 'code ' .. subject)
redis.call('SADD', KEYS[3], subject)
redis.call('PUBLISH', READY, list)
return 1
