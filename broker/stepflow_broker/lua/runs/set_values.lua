-- set_values: store the values that the code of a run has set, in place of those that it had set before.
-- USES     state
-- KEYS     1 run
-- ARGV     1 run  2 fence  3 values (JSON)
-- MOVES    none
-- RETURNS  1 STORED, -1 NO_RUN, -2 STALE_FENCE
local was = read_run(ARGV[1])
if not holds_run(was, ARGV[2]) then return refusal(was) end
redis.call('HSET', KEYS[1], 'values', ARGV[3])
return 1
