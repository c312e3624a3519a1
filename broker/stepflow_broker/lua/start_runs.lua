-- start_runs: create runs of a function, each once, and queue their first jobs; or record that its rate limit skips them.
-- USES     clock jobs runs starts
-- KEYS     1 run (the first)
-- ARGV     1 now_ms  2 app  3 function  4 queue  5 dedupe_ms  6 retention_ms
--          7.. run, event, rate_name, rate_limit (0: none), rate_period_ms, ...
-- MOVES    (none) -> queued | skipped
-- RETURNS  list of 1 STARTED, 0 ALREADY_STARTED, 3 SKIPPED
local now, more, retention_ms, codes = clock(ARGV[1]), {'dedupe_ms', ARGV[5]}, tonumber(ARGV[6]), {}
for i = 7, #ARGV, 5 do
  local run, code = ARGV[i], 0
  if redis.call('EXISTS', RUN .. run) == 0 then
    code = start_or_skip(run, ARGV[2], ARGV[3], ARGV[4], ARGV[i + 1], now, more, ARGV[i + 2], ARGV[i + 3], ARGV[i + 4],
      retention_ms) and 1 or 3
  end
  codes[#codes + 1] = code
end
return codes
