-- fail_attempt: record a step's failed attempt and queue the next one, after a delay, as a job of its own.
-- Also puts a step off that this worker cannot execute (attempts unchanged).
-- USES     clock jobs runs
-- KEYS     1 run  2 steps
-- ARGV     1 now_ms  2 run  3 job_key ('' for the continuation)  4 fence  5 step_key  6 step_id  7 attempts  8 error
--          9 delay_ms
-- MOVES    running -> running (the continuation stays with its worker), leased step -> delayed step
-- RETURNS  1 RECORDED, 0 ALREADY_RECORDED, -1 NO_RUN, -2 STALE_FENCE
local now, run, job_key, key = clock(ARGV[1]), ARGV[2], ARGV[3], ARGV[5]
local planned = redis.call('HMGET', KEYS[2], key .. ':attempt', key .. ':state')
if job_key == '' and planned[2] or not holds(run, job_key, ARGV[4]) then
  if tonumber(planned[1] or 0) >= tonumber(ARGV[7]) then return 0 end
  return is_live(run) and -2 or -1
end
local state = redis.call('HMGET', KEYS[1], 'queue', 'app', 'function')
local list, name = list_of(state[1], true), state[2] .. '/' .. state[3] .. ': ' .. string.sub(ARGV[6], 1, 100)
local job, due = job_of(run, key), now + tonumber(ARGV[9])
if job_key ~= '' then drop_lease(job, ARGV[4]) end
redis.call('HDEL', KEYS[2], key .. ':lease', key .. ':owner')
redis.call('HSET', KEYS[2], key, ARGV[6], key .. ':state', 'delayed', key .. ':attempt', ARGV[7], key .. ':error',
  ARGV[8], key .. ':due', due)
delay_job(job, list, name, now, due)
return 1
