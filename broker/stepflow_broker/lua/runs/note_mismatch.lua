-- note_mismatch: store how the code of a run differs from its history, once for each version of the code.
-- USES     state
-- KEYS     1 run
-- ARGV     1 run  2 fence  3 mismatch (JSON)  4 code (the fingerprint of the code of this worker)
-- MOVES    none
-- RETURNS  1 STORED, 0 ALREADY, 3 ACCEPTED (somebody lets the run go on with this code), -1 NO_RUN, -2 STALE_FENCE
local was = read_run(ARGV[1])
if not holds_run(was, ARGV[2]) then return refusal(was) end
local known = redis.call('HMGET', KEYS[1], 'mismatch_code', 'mismatch_accepted')
if known[1] == ARGV[4] then return known[2] and 3 or 0 end
redis.call('HSET', KEYS[1], 'mismatch', ARGV[3], 'mismatch_code', ARGV[4])
redis.call('HDEL', KEYS[1], 'mismatch_accepted')
return 1
