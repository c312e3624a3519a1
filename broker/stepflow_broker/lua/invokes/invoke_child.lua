-- invoke_child: start a child run for a step of its parent, once, with the timeout key that bounds the wait.
-- The step is resolved at once when the function does not exist (`refusal`) or is paused, or when its flow control
-- skips the run. The script is refused when the registry of functions has changed since the parent's worker read it.
-- An item of a map starts its child by its own job, which ends then.
-- USES     clock jobs waits state concurrency attempts indexes runs invokes maps map_items remote_children undo cancellation start_rules
-- KEYS     1 run
-- ARGV     1 now_ms  2 run  3 fence  4 version  5 step_key  6 step_id  7 detail (rest of the memo's JSON)
--          8 timeout_ms  9 timeout_memo  10 refusal ('' or a memo)  11 child  12 app  13 function  14 queue  15 event
--          16 depth  17 retention_ms  18.. rules (see read_rules)
-- MOVES    step none -> waiting|memo; step leased -> waiting|none; step waiting -> memo; start; end_item
-- RETURNS  {1 STARTED | 0 ALREADY | 3 RESOLVED | -1 NO_RUN | -2 STALE_FENCE | -3 STALE_REGISTRY, position, memo}
local now, run, key, child = clock(ARGV[1]), ARGV[2], ARGV[5], ARGV[11]
local was = read_run(run)
local refused = invoke_refusal(run, was, ARGV[3], key, ARGV[4])
if refused then return {refused, 0, ''} end
local is_new = redis.call('EXISTS', RUN .. child) == 0
local paused = is_paused('function', ARGV[12] .. '/' .. ARGV[13])
local more = {'parent', run, 'parent_step', key, 'depth', ARGV[16]}
local is_plain = ARGV[10] == '' and ARGV[18] == '0' and is_new and not paused

local function create_child()
  await_child(run, key, ARGV[6], child, ARGV[7], now, ARGV[8], ARGV[9])
  create_queued_run(child, ARGV[12], ARGV[13], ARGV[14], ARGV[15], now, more)
  return {1, 0, ''}
end

if is_plain and #key < 56 then return create_child() end
-- REST: the child of an item
if is_plain then
  MAP_ITEMS.leave(run, was, key, ARGV[3], now)
  return create_child()
end
-- REST: a child with flow control, cancellation or tags, one that exists, or one that cannot start
if #key >= 56 then MAP_ITEMS.leave(run, was, key, ARGV[3], now) end
if ARGV[10] ~= '' then
  if #key >= 56 then
    MAP_ITEMS.end_item(run, was, key, ARGV[10], now)
    return {3, 0, ''}
  end
  local _, position = record_memo(run, was, key, ARGV[10])
  return {3, position, ARGV[10]}
end
await_child(run, key, ARGV[6], child, ARGV[7], now, ARGV[8], ARGV[9])
local waits
if is_new then
  local rules = paused and {{kind = 'skip', name = 'paused'}} or read_rules(18)
  waits = start_or_skip(child, ARGV[12], ARGV[13], ARGV[14], ARGV[15], now, more, tonumber(ARGV[17]), rules)
else
  waits = is_live(child)
end
if waits then return {1, 0, ''} end
if #key >= 56 then
  MAP_ITEMS.resolve(child, now)
  return {3, 0, ''}
end
local position, memo = resolve_by_child(child)
return {3, position, memo}
