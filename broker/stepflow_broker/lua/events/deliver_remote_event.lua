-- deliver_remote_event: end the waits of this partition that an event of another one answers, once.
-- Refused when values are needed that the router has not sent. It may meet an event again only when there are waits whose
-- condition a worker has to look at.
-- USES     clock jobs waits state concurrency runs invokes cancellation events
-- KEYS     1 relayed
-- ARGV     1 now_ms  2 event  3 name  4 values: how many  5.. paths, digest, ...
-- MOVES    step waiting -> memo; cancel
-- RETURNS  {1 MET | 0 ALREADY | -4 MORE_VALUES, paths that are waited for}
local RELAYED_MS = 3600000 -- an event that its router could not take off its stream comes again, but not after this
local now = clock(ARGV[1])
if redis.call('EXISTS', KEYS[1]) == 1 then return {0, {}} end
local met, looked_at, waited = waits_met(ARGV[3], (read_digests(4)))
if not met then return {-4, waited} end
for _, members in ipairs(met) do
  for _, member in ipairs(members) do deliver_event(member, ARGV[2], now) end
end
if looked_at then return {1, {'?'}} end
redis.call('SET', KEYS[1], '', 'PX', RELAYED_MS)
return {1, {}}
