-- cancel_event: delete a delayed event before it is sent.
-- USES     audit delayed_events
-- KEYS     1 delayed_events
-- ARGV     1 event_id  2 who ('': not audited)  3 reason
-- MOVES    none
-- RETURNS  1 DONE, 0 ALREADY (no event with this id is delayed)
local id = ARGV[1]
if not take_delayed_event(id) then return 0 end
redis.call('ZREM', TIMEOUTS, 'event:' .. id)
audit(ARGV[2], 'cancel', 'event ' .. id, ARGV[3], '{}')
return 1
