-- start_remote_child: make the run that a step of a parent in another partition waits for, once.
-- Its flow control may put it off or skip it, a pause skips it.
-- USES     clock jobs waits state concurrency runs invokes cancellation start_rules
-- KEYS     1 run
-- ARGV     1 now_ms  2 run  3 message (that asks for it)  4 event  5 parent  6 step_key  7 depth  8 app  9 function  10 queue
--          11 retention_ms  12.. rules (as start_run)
-- MOVES    start
-- RETURNS  1 STARTED | 0 ALREADY | 3 ENDED
local run = ARGV[2]
if redis.call('EXISTS', KEYS[1]) == 1 then return is_live(run) and 0 or 3 end
local more = {'away_parent', ARGV[5], 'parent_step', ARGV[6], 'depth', ARGV[7], 'asked', ARGV[3]}
local rules = read_rules(12)
if is_paused('function', ARGV[8] .. '/' .. ARGV[9]) then rules = {{kind = 'skip', name = 'paused'}} end
return start_or_skip(run, ARGV[8], ARGV[9], ARGV[10], ARGV[4], clock(ARGV[1]), more, tonumber(ARGV[11]), rules) and 1 or 3
