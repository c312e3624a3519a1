-- retry_run: delay a run whose own code failed. It is replayed from its memos after the delay.
-- A worker that cannot execute a run sends the same script, with a reason and the attempts unchanged.
-- USES     clock jobs waits state concurrency attempts indexes runs
-- KEYS     1 run
-- ARGV     1 now_ms  2 run  3 fence  4 attempts  5 error  6 delay_ms  7 reason ('': none)
--          8 longest_delay_ms (the delay doubles with each deferral in a row, up to this; 0: it does not grow)
--          9 attempt (its JSON without times and error; '': none, the attempts are unchanged)
-- MOVES    run running -> waiting; continuation leased -> delayed; promote
-- RETURNS  1 RECORDED, -1 NO_RUN, -2 STALE_FENCE
local now, run, fence, was = clock(ARGV[1]), ARGV[2], ARGV[3], read_run(ARGV[2])
if not holds_run(was, fence) then return refusal(was) end
local last = redis.call('HMGET', KEYS[1], 'deferred', 'due')
local deferred, delay_ms = count_deferral(last[1], last[2], now, tonumber(ARGV[6]), tonumber(ARGV[8]))
local due = now + delay_ms
end_lease(run, was, was.list, fence, now)
if ARGV[9] ~= '' then
  redis.call('HSETNX', KEYS[1], 'first_failed_at', now)
  local since = redis.call('HMGET', KEYS[1], 'attempt_started_at', 'started_at')
  local times = ',"started_at":' .. (since[1] or since[2] or 'null') .. ',"ended_at":' .. now
  keep_attempt(run, '', ARGV[4], string.sub(ARGV[9], 1, -2) .. times .. ',"error":' .. ARGV[5] .. '}')
  redis.call('HDEL', KEYS[1], 'attempt_started_at')
end
redis.call('HDEL', KEYS[1], 'lease', 'list', 'owner', 'leased_at', 'executing', 'blocked', 'deferred')
redis.call('HSET', KEYS[1], 'continuation', 'delayed', 'status', 'waiting', 'attempt', ARGV[4], 'due', due,
  'delayed_at', now)
if ARGV[5] ~= '' then redis.call('HSET', KEYS[1], 'last_error', ARGV[5]) end
if deferred > 0 then redis.call('HSET', KEYS[1], 'deferred', deferred) end
if ARGV[7] ~= '' then redis.call('HSET', KEYS[1], 'blocked', ARGV[7]) end
delay_job(run, list_of(was.queue, true), was.app .. '/' .. was.function_id, now, due)
return 1
