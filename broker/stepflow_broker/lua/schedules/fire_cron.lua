-- fire_cron: start the runs of the due times of a schedule, each once. The first worker that sends it starts them.
-- While the function is paused, nothing is started. Its `catch_up` policy decides about the missed times.
-- USES     clock jobs waits state concurrency attempts indexes runs invokes undo cancellation start_rules
-- KEYS     1 cron  2 paused
-- ARGV     1 now_ms  2 schedule (function, zone, fields; a line each)
--          3 last_ms (the last started time, as the caller read it; 0: none)
--          4 until_ms (the last started time from now on)
--          5.. run, app, function, queue, event, retention_ms, rules (see read_rules), ...
-- MOVES    start
-- RETURNS  the number of runs started, 0 ALREADY
if tonumber(redis.call('HGET', KEYS[1], ARGV[2]) or 0) ~= tonumber(ARGV[3]) then return 0 end
if redis.call('HEXISTS', KEYS[2], 'function ' .. string.match(ARGV[2], '^[^\n]*')) == 1 then return 0 end
local now, started = clock(ARGV[1]), 0
local more = {'dedupe_ms', 0}
redis.call('HSET', KEYS[1], ARGV[2], ARGV[4])
local i = 5
while i <= #ARGV do
  local run, rules, following = ARGV[i], read_rules(i + 6)
  if redis.call('EXISTS', RUN .. run) == 0 and start_or_skip(run, ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4],
    now, more, tonumber(ARGV[i + 5]), rules) then
    started = started + 1
  end
  i = following
end
return started
