-- start_run: create a run, once, and queue its first job; or record that its rate limit skips it.
-- USES     clock jobs runs starts
-- KEYS     1 run
-- ARGV     1 now_ms  2 run  3 app  4 function  5 queue  6 event  7 dedupe_ms  8 rate_name  9 rate_limit (0: none)
--          10 rate_period_ms  11 retention_ms
-- MOVES    (none) -> queued | skipped
-- RETURNS  1 STARTED, 0 ALREADY_STARTED, 3 SKIPPED
local now, run = clock(ARGV[1]), ARGV[2]
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
local more = {'dedupe_ms', ARGV[7]}
return start_or_skip(run, ARGV[3], ARGV[4], ARGV[5], ARGV[6], now, more, ARGV[8], ARGV[9], ARGV[10],
  tonumber(ARGV[11])) and 1 or 3
