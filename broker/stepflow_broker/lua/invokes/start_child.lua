-- start_child: start a child run, and store the memo of the step that starts it, once.
-- The end of the child becomes the memo of another step, which waits for it from now on, whether or not the code does.
-- A timeout key bounds that wait. The script is refused as invoke_child is. A child in another partition is started by
-- a message, as by invoke_remote_child.
-- USES     clock jobs waits state concurrency attempts indexes runs invokes remote_children undo cancellation start_rules
-- KEYS     1 run
-- ARGV     1 now_ms  2 run  3 fence  4 version  5 step_key  6 memo  7 end_key  8 step_id  9 detail (rest of the JSON of
--          the memo of the end)  10 timeout_ms  11 timeout_memo  12 parent_close  13 child ('': the function cannot be
--          invoked, and the memo says why)  14 app  15 function  16 queue  17 event  18 depth  19 retention_ms
--          20 args ('': the child lives in this partition; JSON: ARGV of start_remote_child from 5 on)
--          21.. rules (see read_rules)
-- MOVES    step none -> waiting|memo; step waiting -> memo; start
-- RETURNS  {1 STARTED | 0 ALREADY | -1 NO_RUN | -2 STALE_FENCE | -3 STALE_REGISTRY, position, position of the end,
--          memo of the end (of a child that was skipped, or has ended), message}
local now, run, step, key, child = clock(ARGV[1]), ARGV[2], ARGV[5], ARGV[7], ARGV[13]
local was = read_run(run)
local refused = invoke_refusal(run, was, ARGV[3], step, ARGV[4])
if refused then return {refused, 0, 0, '', ''} end
local _, position = record_memo(run, was, step, ARGV[6])
if child == '' then return {1, position, 0, '', ''} end
await_child(run, key, ARGV[8], child, ARGV[9], now, ARGV[10], ARGV[11])
redis.call('HSET', STEPS .. run, key .. ':close', ARGV[12])
if ARGV[20] ~= '' then
  local message = redis.call('XADD', FINISHED, '*', 'start', child, 'event', ARGV[17], 'args', ARGV[20])
  redis.call('HSET', STEPS .. run, key .. ':message', message)
  return {1, position, 0, '', message}
end
local lives
if redis.call('EXISTS', RUN .. child) == 1 then
  lives = is_live(child)
else
  local rules = read_rules(21)
  if is_paused('function', ARGV[14] .. '/' .. ARGV[15]) then rules = {{kind = 'skip', name = 'paused'}} end
  local more = {'parent', run, 'parent_step', key, 'depth', ARGV[18]}
  lives = start_or_skip(child, ARGV[14], ARGV[15], ARGV[16], ARGV[17], now, more, tonumber(ARGV[19]), rules)
end
if lives then return {1, position, 0, '', ''} end
local end_position, memo = resolve_by_child(child)
return {1, position, end_position, memo or '', ''}
