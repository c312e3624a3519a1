-- retry_run: the function's own code failed; run it again from its memos, after a delay.
-- Also hands a run back that this worker cannot run (attempts unchanged, with a reason).
-- USES     clock jobs runs
-- KEYS     1 run
-- ARGV     1 now_ms  2 run  3 fence  4 attempts  5 error  6 delay_ms  7 reason ('' or why no worker could run it)
-- MOVES    running -> waiting
-- RETURNS  1 RECORDED, -1 NO_RUN, -2 STALE_FENCE
local now, run, fence = clock(ARGV[1]), ARGV[2], ARGV[3]
if not holds(run, '', fence) then return is_live(run) and -2 or -1 end
local state = redis.call('HMGET', KEYS[1], 'queue', 'app', 'function')
local due = now + tonumber(ARGV[6])
drop_lease(run, fence)
redis.call('HDEL', KEYS[1], 'lease', 'owner', 'blocked')
redis.call('HSET', KEYS[1], 'continuation', 'delayed', 'status', 'waiting', 'attempt', ARGV[4], 'due', due)
if ARGV[5] ~= '' then redis.call('HSET', KEYS[1], 'last_error', ARGV[5]) end
if ARGV[7] ~= '' then redis.call('HSET', KEYS[1], 'blocked', ARGV[7]) end
delay_job(run, list_of(state[1], true), state[2] .. '/' .. state[3], now, due)
return 1
