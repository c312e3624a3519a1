-- route_event: start the runs of one event, each once, and take the event off the stream.
-- Refused when the registry of functions has changed since the router read it.
-- USES     clock jobs runs
-- KEYS     1 events  2 version
-- ARGV     1 now_ms  2 version  3 group  4 entry  5 event  6 dedupe_ms  7.. run, app, function, queue, ...
-- MOVES    (none) -> queued
-- RETURNS  the number of runs started, -1 STALE_REGISTRY
if tonumber(redis.call('GET', KEYS[2]) or 0) ~= tonumber(ARGV[2]) then return -1 end
local now, started = clock(ARGV[1]), 0
for i = 7, #ARGV, 4 do
  local run = ARGV[i]
  if redis.call('EXISTS', RUN .. run) == 0 then
    create_run(run, ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[5], now, {'dedupe_ms', ARGV[6]})
    started = started + 1
  end
end
redis.call('XACK', KEYS[1], ARGV[3], ARGV[4])
redis.call('XDEL', KEYS[1], ARGV[4])
return started
