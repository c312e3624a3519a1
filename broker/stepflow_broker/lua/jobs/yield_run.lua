-- yield_run: put the continuation of a run back at the end of its list, so that other runs are executed too.
-- USES     clock jobs waits state concurrency attempts indexes runs
-- KEYS     1 run
-- ARGV     1 now_ms  2 run  3 fence
-- MOVES    run running -> queued; continuation leased -> queued|waitlisted; promote
-- RETURNS  1 QUEUED, -1 NO_RUN, -2 STALE_FENCE
local run, fence, was = ARGV[2], ARGV[3], read_run(ARGV[2])
if not holds_run(was, fence) then return refusal(was) end
end_lease(run, was, was.list, fence, clock(ARGV[1]))
requeue_run(run, was, clock(ARGV[1]))
return 1
