-- route_event: start the runs of one event, each once, end the waits that its values answer, and take it off the stream.
-- Refused when the registry of functions has changed since the router read it, or when values are needed that it has not
-- sent. When there are waits whose condition a worker has to look at, or other partitions (`keep`), the event stays on the
-- stream for that.
-- USES     clock jobs waits state concurrency runs invokes cancellation start_rules events
-- KEYS     1 events  2 version
-- ARGV     1 now_ms  2 version  3 group  4 entry  5 event  6 dedupe_ms  7 name  8 keep (1 or 0)  9 values: how many
--          10.. paths, digest, ... then run, app, function, queue, retention_ms, rules (as start_run), ...
-- MOVES    step waiting -> memo; start
-- RETURNS  {number of runs started | -3 STALE_REGISTRY | -4 MORE_VALUES, paths that are waited for}
local RECENT_EVENTS = 1000 -- what a look-back can find: so many of a name,
local RECENT_MS = 3600000 -- for so long
if tonumber(redis.call('GET', KEYS[2]) or 0) ~= tonumber(ARGV[2]) then return {-3, {}} end
local now, started, more, event, name = clock(ARGV[1]), 0, {'dedupe_ms', ARGV[6]}, ARGV[5], ARGV[7]
local digests, i = read_digests(9)
local met, looked_at, waited = waits_met(name, digests) -- a run that the event starts is not cancelled by it
if not met then return {-4, waited} end
while i <= #ARGV do
  local run, rules, following = ARGV[i], read_rules(i + 5)
  if redis.call('EXISTS', RUN .. run) == 0 and start_or_skip(run, ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], event, now,
    more, tonumber(ARGV[i + 4]), rules) then
    started = started + 1
  end
  i = following
end
for _, members in ipairs(met) do
  for _, member in ipairs(members) do deliver_event(member, event, now) end
end
if not looked_at and ARGV[8] == '0' then
  redis.call('XACK', KEYS[1], ARGV[3], ARGV[4])
  if redis.call('XDEL', KEYS[1], ARGV[4]) == 0 then return {started, {}} end -- routed before
end
redis.call('XADD', EVENT_HISTORY .. name, 'MAXLEN', '~', RECENT_EVENTS, '*', 'event', event)
redis.call('PEXPIRE', EVENT_HISTORY .. name, RECENT_MS)
return {started, looked_at and {'?'} or {}}
