-- set_aside_event: move an event that cannot be routed completely from the stream to the events that are set aside.
-- KEYS     1 events  2 events_aside
-- ARGV     1 group  2 entry  3 event  4 event_id  5 dedupe (1 or 0)  6 reason
-- MOVES    none
-- RETURNS  1 SET_ASIDE, 0 ALREADY
local MAX_ASIDE = 1000 -- events; older ones are dropped
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
if redis.call('XDEL', KEYS[1], ARGV[2]) == 0 then return 0 end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', MAX_ASIDE, '*', 'event', ARGV[3], 'id', ARGV[4], 'dedupe', ARGV[5], 'reason',
  ARGV[6])
return 1
