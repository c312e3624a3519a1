-- finish_run: end a run whose code has returned or failed.
-- The failed event starts functions that subscribe to failures.
-- USES     clock jobs waits state concurrency attempts runs
-- KEYS     1 run  2 events
-- ARGV     1 now_ms  2 run  3 fence  4 status  5 field (output or error)  6 payload  7 retention_ms
--          8 failed_event ('': none)  9 event_id (of the failed event)
--          10 version (of the worker's code; '': that of the run)
-- MOVES    run running -> completed|failed; continuation leased -> none;
--          step queued|waitlisted|leased|delayed|waiting -> none; promote
-- RETURNS  1 ENDED, 0 ALREADY_ENDED, -1 NO_RUN, -2 STALE_FENCE
local run, was = ARGV[2], read_run(ARGV[2])
if not holds_run(was, ARGV[3]) then return was.status == ARGV[4] and 0 or refusal(was) end
end_run(run, was, ARGV[4], ARGV[5], ARGV[6], clock(ARGV[1]), tonumber(ARGV[7]))
if ARGV[10] ~= '' then redis.call('HSET', KEYS[1], 'ended_version', ARGV[10]) end
if ARGV[8] ~= '' then redis.call('XADD', KEYS[2], '*', 'event', ARGV[8], 'id', ARGV[9], 'dedupe', 0) end
return 1
