-- start_runs_later: create runs of a function that start at a later time, each once. If the time is over, they start now.
-- USES     clock jobs waits state concurrency attempts indexes runs invokes undo cancellation start_rules later_starts
-- KEYS     1 run (the first)
-- ARGV     1 now_ms  2 app  3 function  4 queue  5 dedupe_ms  6 retention_ms  7 due_ms (0: by the delay)  8 delay_ms
--          9.. run, event, rules (see parse_rules), ...
-- MOVES    start
-- RETURNS  list of 1 STARTED, 0 ALREADY_STARTED, 3 SKIPPED; or, in its place, the live run that the caller is attached to
local now, retention_ms, codes, i = clock(ARGV[1]), tonumber(ARGV[6]), {}, 9
local more = {'dedupe_ms', ARGV[5]}
local is_fixed = ARGV[7] ~= '0'
local due = is_fixed and tonumber(ARGV[7]) or now + ARGV[8]
while i <= #ARGV do
  local run, event, rules, following = ARGV[i], ARGV[i + 1], read_rules(i + 2)
  if redis.call('EXISTS', RUN .. run) == 1 then
    codes[#codes + 1] = redis.call('HGET', RUN .. run, 'attached_to') or 0
  elseif due > now then
    local packed = {}
    for n = i + 2, rules[1] and following - 1 or 0 do packed[#packed + 1] = pack_text(ARGV[n]) end
    start_later(run, ARGV[2], ARGV[3], ARGV[4], event, now, due, is_fixed, more, retention_ms, rules, table.concat(packed))
    codes[#codes + 1] = 1
  else
    local started, live = start_or_skip(run, ARGV[2], ARGV[3], ARGV[4], event, now, more, retention_ms, rules)
    codes[#codes + 1] = live or started and 1 or 3
  end
  i = following
end
return codes
