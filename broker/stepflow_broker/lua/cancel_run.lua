-- cancel_run: end a run that is not wanted any more. A handler that runs is not interrupted; its result is refused.
-- USES     clock jobs runs
-- KEYS     1 run
-- ARGV     1 now_ms  2 run  3 reason (JSON of a failure)  4 retention_ms
-- MOVES    queued | running | waiting -> cancelled
-- RETURNS  1 ENDED, 0 ALREADY_ENDED, -1 NO_RUN
local run = ARGV[2]
if not is_live(run) then return redis.call('EXISTS', KEYS[1]) == 1 and 0 or -1 end
local owner = end_run(run, 'cancelled', 'error', ARGV[3], clock(ARGV[1]), tonumber(ARGV[4]))
if owner then redis.call('PUBLISH', INBOX .. owner, 'cancel ' .. run) end
return 1
