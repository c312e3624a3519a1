-- finish_run: end a run whose code came to its end.
-- USES     clock jobs runs
-- KEYS     1 run
-- ARGV     1 now_ms  2 run  3 fence  4 status  5 field (output or error)  6 payload  7 retention_ms
-- MOVES    running -> completed | failed
-- RETURNS  1 ENDED, 0 ALREADY_ENDED, -1 NO_RUN, -2 STALE_FENCE
local run = ARGV[2]
if not holds(run, '', ARGV[3]) then
  local status = redis.call('HGET', KEYS[1], 'status')
  if status == ARGV[4] then return 0 end
  return is_live(run) and -2 or -1
end
end_run(run, ARGV[4], ARGV[5], ARGV[6], clock(ARGV[1]), tonumber(ARGV[7]))
return 1
