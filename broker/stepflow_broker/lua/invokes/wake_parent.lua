-- wake_parent: resolve the step that waits for an ended child, and continue the parent. Or end the item of a map.
-- USES     clock jobs waits state concurrency attempts indexes runs invokes maps map_items
-- KEYS     1 run (the child's)
-- ARGV     1 now_ms  2 child  3 worker
-- MOVES    step waiting -> memo; wake; end_item
-- RETURNS  {1 RESOLVED | 0 ALREADY, position, memo, parent, step_key}
local position, memo, run, key, was = resolve_by_child(ARGV[2])
if position == 0 then return {0, 0, '', '', ''} end
if position then
  wake_run(run, was, key, position, clock(ARGV[1]), ARGV[3])
  return {1, position, memo, run, key}
end
-- REST: the child of an item
MAP_ITEMS.resolve(ARGV[2], clock(ARGV[1]))
return {0, 0, '', '', ''}
