-- yield_run: put the continuation of a run back on its list, so that other runs have their turn.
-- USES     clock jobs runs
-- KEYS     1 run
-- ARGV     1 now_ms  2 run  3 fence
-- MOVES    running -> queued
-- RETURNS  1 QUEUED, -1 NO_RUN, -2 STALE_FENCE
local run, fence = ARGV[2], ARGV[3]
if not holds(run, '', fence) then return is_live(run) and -2 or -1 end
drop_lease(run, fence)
requeue_run(run, clock(ARGV[1]))
return 1
