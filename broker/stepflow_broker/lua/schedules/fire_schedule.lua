-- fire_schedule: start runs of a schedule, each once, if it is as the caller has read it.
-- The first worker that sends the due times starts their runs. While the function is paused, it starts nothing. A call by
-- hand, for now or for past times, starts its runs in any case, and leaves open which times are due.
-- USES     clock jobs waits state concurrency attempts indexes runs invokes undo cancellation start_rules audit
-- KEYS     1 schedules  2 schedule_states  3 paused
-- ARGV     1 now_ms  2 schedule  3 revision (as the caller read it)  4 last_ms (up to which runs were started, as the
--          caller read it; '': by hand)  5 until_ms (up to which they are started then)  6 who ('': not audited)
--          7 action  8 reason  9 details (JSON)  10 app  11 function  12 queue  13 dedupe_ms  14 retention_ms
--          15.. run, time_ms (that the run is for), event, rules (see parse_rules), ...
-- MOVES    start
-- RETURNS  the number of runs started, -7 CHANGED (the schedule is otherwise than the caller has read)
local name, by_hand = ARGV[2], ARGV[4] == ''
if (string.match(redis.call('HGET', KEYS[1], name) or '', '^%S+') or '') ~= ARGV[3] then return -7 end
local until_ms, last = string.match(redis.call('HGET', KEYS[2], name) or '', '^(%d+)(.*)$')
if not by_hand then
  if tonumber(until_ms or 0) ~= tonumber(ARGV[4]) then return 0 end
  if redis.call('HEXISTS', KEYS[3], 'function ' .. ARGV[10] .. '/' .. ARGV[11]) == 1 then return 0 end
  until_ms = ARGV[5]
end
local now, started, i = clock(ARGV[1]), 0, 15
local more = {'dedupe_ms', ARGV[13]}
while i <= #ARGV do
  local run, rules, following = ARGV[i], read_rules(i + 3)
  if redis.call('EXISTS', RUN .. run) == 0 then
    if start_or_skip(run, ARGV[10], ARGV[11], ARGV[12], ARGV[i + 2], now, more, tonumber(ARGV[14]), rules) then
      started = started + 1
    end
    last = ' ' .. ARGV[i + 1] .. ' ' .. run
  end
  i = following
end
redis.call('HSET', KEYS[2], name, (until_ms or ARGV[5]) .. (last or ''))
if started > 0 then audit(ARGV[6], ARGV[7], 'schedule ' .. name, ARGV[8], ARGV[9]) end
return started
