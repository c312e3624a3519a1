-- note_undo: note that the code of a run has requested a step with an undo handler.
-- Its worker calls it before the first such step executes.
-- USES     state
-- KEYS     1 run
-- ARGV     1 run  2 fence
-- MOVES    none
-- RETURNS  1 NOTED, -1 NO_RUN, -2 STALE_FENCE
local was = read_run(ARGV[1])
if not holds_run(was, ARGV[2]) then return refusal(was) end
redis.call('HSET', KEYS[1], 'undo', 1)
return 1
