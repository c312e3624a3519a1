-- start_runs: create runs of a function, each once, and queue their first jobs. Flow control may delay or skip a run.
-- USES     clock jobs waits state concurrency attempts indexes runs invokes undo cancellation start_rules
-- KEYS     1 run (the first)
-- ARGV     1 now_ms  2 app  3 function  4 queue  5 dedupe_ms  6 retention_ms
--          7.. run, event, rules (see read_rules), ...
-- MOVES    start
-- RETURNS  list of 1 STARTED, 0 ALREADY_STARTED, 3 SKIPPED; or, in its place, the live run that the caller is attached to
local now, codes, has_rules = clock(ARGV[1]), {}, false
local more = {'dedupe_ms', ARGV[5]}
for i = 9, #ARGV, 3 do has_rules = has_rules or ARGV[i] ~= '0' end
if not has_rules then
  for i = 7, #ARGV, 3 do
    local is_new = redis.call('EXISTS', RUN .. ARGV[i]) == 0
    if is_new then create_queued_run(ARGV[i], ARGV[2], ARGV[3], ARGV[4], ARGV[i + 1], now, more) end
    codes[#codes + 1] = is_new and 1 or 0
  end
  return codes
end
-- REST: with flow control, cancellation or tags
local retention_ms, i = tonumber(ARGV[6]), 7
while i <= #ARGV do
  local run, rules, following = ARGV[i], read_rules(i + 2)
  if redis.call('EXISTS', RUN .. run) == 0 then
    local started, live = start_or_skip(run, ARGV[2], ARGV[3], ARGV[4], ARGV[i + 1], now, more, retention_ms, rules)
    codes[#codes + 1] = live or started and 1 or 3
  else
    codes[#codes + 1] = redis.call('HGET', RUN .. run, 'attached_to') or 0
  end
  i = following
end
return codes
