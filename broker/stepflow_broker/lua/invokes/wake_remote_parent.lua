-- wake_remote_parent: resolve the step that waits for an ended child of another partition, and continue the parent.
-- Or end the item of a map.
-- The message that starts the child is deleted, so that no delivery creates the child again.
-- USES     clock jobs waits state concurrency attempts indexes runs invokes maps map_items
-- KEYS     1 run (the parent's)
-- ARGV     1 now_ms  2 run  3 step_key  4 child  5 status  6 payload  7 reason  8 start_message  9 worker
-- MOVES    step waiting -> memo; wake; end_item
-- RETURNS  {1 RESOLVED | 0 ALREADY, position, memo}
local now, run, key = clock(ARGV[1]), ARGV[2], ARGV[3]
ack_entry(ARGV[8])
if #key >= 56 then
  MAP_ITEMS.end_by_child(run, key, ARGV[4], ARGV[5], ARGV[6], ARGV[7], now, now)
  return {0, 0, ''}
end
local position, memo, was = resolve_step(run, key, ARGV[4], ARGV[5], ARGV[6], ARGV[7], now)
if position == 0 then return {0, 0, ''} end
wake_run(run, was, key, position, now, ARGV[9])
return {1, position, memo}
