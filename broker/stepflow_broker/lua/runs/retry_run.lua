-- retry_run: delay a run whose own code failed. It is replayed from its memos after the delay.
-- A worker that cannot execute a run sends the same script, with a reason and the attempts unchanged.
-- USES     clock jobs waits state concurrency runs
-- KEYS     1 run
-- ARGV     1 now_ms  2 run  3 fence  4 attempts  5 error  6 delay_ms  7 reason ('': none)
-- MOVES    run running -> waiting; continuation leased -> delayed; promote
-- RETURNS  1 RECORDED, -1 NO_RUN, -2 STALE_FENCE
local now, run, fence, was = clock(ARGV[1]), ARGV[2], ARGV[3], read_run(ARGV[2])
if not holds_run(was, fence) then return refusal(was) end
local due = now + tonumber(ARGV[6])
end_lease(run, was, was.list, fence, now)
redis.call('HDEL', KEYS[1], 'lease', 'list', 'owner', 'blocked')
redis.call('HSET', KEYS[1], 'continuation', 'delayed', 'status', 'waiting', 'attempt', ARGV[4], 'due', due,
  'delayed_at', now)
if ARGV[5] ~= '' then redis.call('HSET', KEYS[1], 'last_error', ARGV[5]) end
if ARGV[7] ~= '' then redis.call('HSET', KEYS[1], 'blocked', ARGV[7]) end
delay_job(run, list_of(was.queue, true), was.app .. '/' .. was.function_id, now, due)
return 1
