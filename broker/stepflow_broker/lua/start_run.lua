-- start_run: create a run, once, and queue its first job.
-- USES     clock jobs runs
-- KEYS     1 run
-- ARGV     1 now_ms  2 run  3 app  4 function  5 queue  6 event  7 dedupe_ms
-- MOVES    (none) -> queued
-- RETURNS  1 STARTED, 0 ALREADY_STARTED
local now, run = clock(ARGV[1]), ARGV[2]
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
create_run(run, ARGV[3], ARGV[4], ARGV[5], ARGV[6], now, {'dedupe_ms', ARGV[7]})
return 1
