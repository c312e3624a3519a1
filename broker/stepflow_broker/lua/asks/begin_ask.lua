-- begin_ask: make a step wait for the answer of a person until a time.
-- USES     clock waits state
-- KEYS     1 run
-- ARGV     1 now_ms  2 run  3 fence  4 step_key  5 step_id  6 detail (rest of the memo's JSON)  7 delay_ms
-- MOVES    step none -> waiting
-- RETURNS  1 WAITING, 0 ALREADY, -1 NO_RUN, -2 STALE_FENCE
local now, run, key = clock(ARGV[1]), ARGV[2], ARGV[4]
local was = read_run(run)
if not holds_run(was, ARGV[3]) then return refusal(was) end
if redis.call('HEXISTS', MEMOS .. run, key) == 1 then return 0 end
if redis.call('HEXISTS', STEPS .. run, key .. ':state') == 1 then return 0 end
store_wait(run, key, ARGV[5], ARGV[6], now + ARGV[7], now, 'ask')
redis.call('ZADD', ASKS, now, run .. ':' .. key)
return 1
