-- continue_run: queue the continuation of a parked run whose code has continued without the end of a step.
-- The worker that has the code in memory calls it: it parked a run that waited for something outside.
-- USES     clock jobs waits state concurrency attempts indexes runs
-- KEYS     1 run
-- ARGV     1 now_ms  2 run
-- MOVES    run waiting -> queued; continuation parked -> queued|waitlisted; promote
-- RETURNS  1 QUEUED, 0 ALREADY (it has a continuation), -1 NO_RUN
local run, was = ARGV[2], read_run(ARGV[2])
if not was.live then return -1 end
if was.continuation then return 0 end
queue_run(run, was, clock(ARGV[1]))
return 1
