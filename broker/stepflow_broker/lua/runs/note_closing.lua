-- note_closing: note how the code of a run has ended, while the run waits for its children before it ends so itself.
-- USES     state
-- KEYS     1 run
-- ARGV     1 run  2 fence  3 status (completed or failed)
-- MOVES    none
-- RETURNS  1 NOTED, -1 NO_RUN, -2 STALE_FENCE
local was = read_run(ARGV[1])
if not holds_run(was, ARGV[2]) then return refusal(was) end
redis.call('HSET', KEYS[1], 'closing', ARGV[3])
return 1
