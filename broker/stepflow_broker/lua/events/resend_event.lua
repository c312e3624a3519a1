-- resend_event: send an event that was set aside again, with its id, so that it starts nothing twice.
-- An entry of another program may lack fields. It is sent too: a worker drops what is no event, and says so in its log.
-- USES     audit
-- KEYS     1 events  2 events_aside
-- ARGV     1 entry  2 who ('': not audited)  3 details (JSON)
-- MOVES    none
-- RETURNS  1 SENT, 0 ALREADY (no such event is set aside)
local entry = redis.call('XRANGE', KEYS[2], ARGV[1], ARGV[1])[1]
if not entry then return 0 end
local fields = {}
for i = 1, #entry[2], 2 do fields[entry[2][i]] = entry[2][i + 1] end
redis.call('XADD', KEYS[1], '*', 'event', fields.event or '', 'id', fields.id or '', 'dedupe', fields.dedupe or 0)
redis.call('XDEL', KEYS[2], ARGV[1])
audit(ARGV[2], 'resend', 'event ' .. (fields.id or ''), '', ARGV[3])
return 1
