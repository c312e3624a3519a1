-- deliver_remote_event: deliver an event of another partition to the matching waits of this one, once.
-- It is refused when waits compare values whose digests the router has not sent. An event is delivered again only when
-- there are waits with a condition that a worker must evaluate.
-- USES     clock jobs waits state concurrency attempts indexes runs invokes undo cancellation deliveries events
-- KEYS     1 forwarded
-- ARGV     1 now_ms  2 event  3 name  4 id_digest  5 digests: how many  6.. paths, digest, ...
-- MOVES    step waiting -> memo; cancel
-- RETURNS  {1 DELIVERED | 0 ALREADY | -4 MORE_VALUES, paths that waits compare}
local FORWARDED_MS = 3600000 -- a router that could not delete the event from its stream sends it again within this time
local now = clock(ARGV[1])
if redis.call('EXISTS', KEYS[1]) == 1 then return {0, {}} end
local matches, has_conditions, paths = matching_waits(ARGV[3], (read_digests(5)))
if not matches then return {-4, paths} end
for _, members in ipairs(matches) do
  for _, member in ipairs(members) do deliver_event(member, ARGV[2], ARGV[4], now) end
end
if has_conditions then return {1, {'?'}} end
redis.call('SET', KEYS[1], '', 'PX', FORWARDED_MS)
return {1, {}}
