-- start_remote_child: create the child of a parent in another partition, once.
-- Flow control may delay or skip it. A pause skips it.
-- USES     clock jobs waits state concurrency attempts indexes runs invokes undo cancellation start_rules
-- KEYS     1 run
-- ARGV     1 now_ms  2 run  3 start_message  4 event  5 parent  6 step_key  7 depth  8 app  9 function  10 queue
--          11 retention_ms  12.. rules (see read_rules)
-- MOVES    start
-- RETURNS  1 STARTED | 0 ALREADY | 3 ENDED
local run = ARGV[2]
if redis.call('EXISTS', KEYS[1]) == 1 then return is_live(run) and 0 or 3 end
local more = {'remote_parent', ARGV[5], 'parent_step', ARGV[6], 'depth', ARGV[7], 'start_message', ARGV[3]}
local rules = read_rules(12)
if is_paused('function', ARGV[8] .. '/' .. ARGV[9]) then rules = {{kind = 'skip', name = 'paused'}} end
local now, retention_ms = clock(ARGV[1]), tonumber(ARGV[11])
return start_or_skip(run, ARGV[8], ARGV[9], ARGV[10], ARGV[4], now, more, retention_ms, rules) and 1 or 3
