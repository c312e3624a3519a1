-- route_event: start the runs of one event, each once, deliver it to the matching waits, and delete it from the stream.
-- It is refused when the registry of functions has changed since the router read it, or when waits compare, or have
-- compared of late, values whose digests the router has not sent. It is also refused while the event `after`, which must
-- be routed before, is not: so a router can send many events at once, and they are routed in order. The event stays on
-- the stream when there are waits with a condition that a worker must evaluate, or other partitions (`keep`).
-- USES     clock jobs waits state concurrency attempts indexes runs invokes undo cancellation start_rules deliveries events event_history
-- KEYS     1 events  2 version
-- ARGV     1 now_ms  2 version  3 group  4 entry  5 event  6 dedupe_ms  7 name  8 keep (1 or 0)
--          9 id_digest  10 after ('' or an entry)  11 digests: how many  12.. paths, digest, ... then run, app,
--          function, queue, retention_ms, rules (see read_rules), ...
-- MOVES    step waiting -> memo; start
-- RETURNS  {number of runs started | -3 STALE_REGISTRY | -4 MORE_VALUES | -5 EARLIER_EVENT, paths that waits compare}
if tonumber(redis.call('GET', KEYS[2]) or 0) ~= tonumber(ARGV[2]) then return {-3, {}} end
local after = ARGV[10]
if after ~= '' and #redis.call('XPENDING', KEYS[1], ARGV[3], after, after, 1) > 0 then return {-5, {}} end
local now, started, event, name = clock(ARGV[1]), 0, ARGV[5], ARGV[7]
local more = {'dedupe_ms', ARGV[6]}
local digests, i = read_digests(11)
-- before the runs start: an event must not cancel a run that it starts
local matches, has_conditions, paths = matching_waits(name, digests)
local recent, is_lacking = recent_paths(name), not matches
for _, one in ipairs(recent) do
  if not digests[one] then is_lacking = true end
end
if is_lacking then
  for _, one in ipairs(recent) do paths[#paths + 1] = one end
  return {-4, paths}
end
while i <= #ARGV do
  local run, rules, following = ARGV[i], read_rules(i + 5)
  if redis.call('EXISTS', RUN .. run) == 0 and start_or_skip(run, ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], event, now,
    more, tonumber(ARGV[i + 4]), rules) then
    started = started + 1
  end
  i = following
end
for _, members in ipairs(matches) do
  for _, member in ipairs(members) do deliver_event(member, event, ARGV[9], now) end
end
if not has_conditions and ARGV[8] == '0' then
  redis.call('XACK', KEYS[1], ARGV[3], ARGV[4])
  if redis.call('XDEL', KEYS[1], ARGV[4]) == 0 then return {started, {}} end -- routed before
end
remember_event(name, event, ARGV[9], recent, digests, now)
return {started, has_conditions and {'?'} or {}}
