-- note_patches: store what a run has decided at the patches of its code, in place of what was stored.
-- Its worker calls it before anything that follows from a decision.
-- USES     state
-- KEYS     1 run
-- ARGV     1 run  2 fence  3 patches (JSON)
-- MOVES    none
-- RETURNS  1 STORED, -1 NO_RUN, -2 STALE_FENCE
local was = read_run(ARGV[1])
if not holds_run(was, ARGV[2]) then return refusal(was) end
redis.call('HSET', KEYS[1], 'patches', ARGV[3])
return 1
