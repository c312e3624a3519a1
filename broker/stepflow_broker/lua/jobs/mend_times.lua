-- mend_times: treat the times of live runs and of timers that were noted while the clock was ahead as noted now.
-- A worker that has seen the clock come back sends it for all pages. Other times mend themselves where they are used.
-- USES     clock jobs waits state concurrency indexes times
-- KEYS     1 timeouts  2 live
-- ARGV     1 now_ms  2 cursor  3 count
-- MOVES    none
-- RETURNS  {next cursor, how many runs and timers had such a time}
local now, mended = clock(ARGV[1]), 0
for _, run in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], now + AHEAD_MS + 1, '+inf', 'LIMIT', 0, ARGV[3])) do
  mend_run(run, now)
  mended = mended + 1
end
local page = redis.call('ZSCAN', KEYS[1], ARGV[2], 'COUNT', ARGV[3])
for i = 1, #page[2], 2 do
  if mend_timer(page[2][i], page[2][i + 1], now) then mended = mended + 1 end
end
return {page[1], mended}
