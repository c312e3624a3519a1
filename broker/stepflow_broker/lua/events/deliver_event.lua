-- deliver_event: deliver an event to a wait that a worker has matched.
-- USES     clock jobs waits state concurrency attempts indexes runs invokes undo cancellation deliveries events
-- KEYS     1 run
-- ARGV     1 now_ms  2 run  3 step_key  4 event  5 id_digest
-- MOVES    step waiting -> memo; cancel
-- RETURNS  1 DELIVERED, 0 ALREADY (the wait has ended, or began after the run had received the event)
return deliver_event(ARGV[2] .. ':' .. ARGV[3], ARGV[4], ARGV[5], clock(ARGV[1])) and 1 or 0
