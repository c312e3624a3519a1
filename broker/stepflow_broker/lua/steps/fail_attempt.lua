-- fail_attempt: record and keep a failed attempt of a step. The next attempt is a delayed job of its own.
-- A worker that cannot execute a step sends the same script with the attempts unchanged.
-- USES     clock jobs waits state concurrency attempts indexes runs
-- KEYS     1 run  2 steps
-- ARGV     1 now_ms  2 run  3 job_key ('' for the continuation)  4 fence  5 step_key  6 step_id  7 attempts  8 error
--          9 delay_ms  10 longest_delay_ms (the delay doubles with each deferral in a row, up to this; 0: it does not grow)
--          11 attempt (its JSON without the error; '': none, the attempts are unchanged)
-- MOVES    step none|leased -> delayed; promote
-- RETURNS  1 RECORDED, 0 ALREADY_RECORDED, -1 NO_RUN, -2 STALE_FENCE
local now, run, job_key, key = clock(ARGV[1]), ARGV[2], ARGV[3], ARGV[5]
local was, planned = read_run(run), redis.call('HMGET', KEYS[2], key .. ':attempt', key .. ':state', key .. ':deferred',
  key .. ':due')
local held
if job_key == '' then held = holds_run(was, ARGV[4]) and not planned[2] else held = holds_step(run, key, ARGV[4]) end
if not held then
  if tonumber(planned[1] or 0) >= tonumber(ARGV[7]) then return 0 end
  return refusal(was)
end
local list, name = list_of_step(run, was, key), was.app .. '/' .. was.function_id .. ': ' .. string.sub(ARGV[6], 1, 100)
local deferred, delay_ms = count_deferral(planned[3], planned[4], now, tonumber(ARGV[9]), tonumber(ARGV[10]))
local job, due = job_of(run, key), now + delay_ms
if job_key ~= '' then end_lease(job, was, list, ARGV[4], now) end
redis.call('HDEL', KEYS[2], key .. ':lease', key .. ':owner', key .. ':leased_at', key .. ':deferred')
if deferred > 0 then redis.call('HSET', KEYS[2], key .. ':deferred', deferred) end
redis.call('HSET', KEYS[2], key, ARGV[6], key .. ':state', 'delayed', key .. ':attempt', ARGV[7], key .. ':error',
  ARGV[8], key .. ':due', due, key .. ':began', now)
if ARGV[11] ~= '' then
  redis.call('HSETNX', KEYS[2], key .. ':first_failed_at', now)
  keep_attempt(run, key, ARGV[7], string.sub(ARGV[11], 1, -2) .. ',"error":' .. ARGV[8] .. '}')
end
delay_job(job, list, name, now, due)
return 1
