-- delay_event: send an event at a later time, once. If the time is over, it is sent now.
-- USES     clock delayed_events
-- KEYS     1 delayed_events
-- ARGV     1 now_ms  2 due_ms (0: by the delay)  3 delay_ms  4 event  5 event_id  6 dedupe (1 or 0)
-- MOVES    none
-- RETURNS  1 DONE (it is delayed, or sent), 0 ALREADY (an event with this id is delayed)
local now, id = clock(ARGV[1]), ARGV[5]
local due = ARGV[2] == '0' and now + ARGV[3] or tonumber(ARGV[2])
if due > now then return delay_event(id, ARGV[4], ARGV[6], due) and 1 or 0 end
redis.call('XADD', EVENTS, '*', 'event', ARGV[4], 'id', id, 'dedupe', ARGV[6])
return 1
