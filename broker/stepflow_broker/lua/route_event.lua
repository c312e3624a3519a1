-- route_event: start the runs of one event, each once, and take the event off the stream.
-- Refused when the registry of functions has changed since the router read it.
-- USES     clock jobs runs starts
-- KEYS     1 events  2 version
-- ARGV     1 now_ms  2 version  3 group  4 entry  5 event  6 dedupe_ms
--          7.. run, app, function, queue, rate_name, rate_limit, rate_period_ms, retention_ms, ...
-- MOVES    (none) -> queued | skipped
-- RETURNS  the number of runs started, -1 STALE_REGISTRY
if tonumber(redis.call('GET', KEYS[2]) or 0) ~= tonumber(ARGV[2]) then return -1 end
local now, started, more = clock(ARGV[1]), 0, {'dedupe_ms', ARGV[6]}
for i = 7, #ARGV, 8 do
  local run = ARGV[i]
  if redis.call('EXISTS', RUN .. run) == 0 then
    if start_or_skip(run, ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[5], now, more, ARGV[i + 4], ARGV[i + 5],
      ARGV[i + 6], tonumber(ARGV[i + 7])) then
      started = started + 1
    end
  end
end
redis.call('XACK', KEYS[1], ARGV[3], ARGV[4])
redis.call('XDEL', KEYS[1], ARGV[4])
return started
