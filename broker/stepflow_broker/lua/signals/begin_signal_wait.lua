-- begin_signal_wait: make a step wait for a signal until a time. A signal that was kept ends it at once, the oldest first.
-- USES     clock jobs waits state concurrency attempts indexes runs signals
-- KEYS     1 run
-- ARGV     1 now_ms  2 run  3 fence  4 step_key  5 step_id  6 detail (rest of the memo's JSON)  7 delay_ms  8 name
-- MOVES    step none -> waiting|memo
-- RETURNS  {1 WAITING | 0 ALREADY | 3 RESOLVED | -1 NO_RUN | -2 STALE_FENCE, position, memo}
local now, run, key, detail, name = clock(ARGV[1]), ARGV[2], ARGV[4], ARGV[6], ARGV[8]
local was = read_run(run)
if not holds_run(was, ARGV[3]) then return {refusal(was), 0, ''} end
if redis.call('HEXISTS', MEMOS .. run, key) == 1 then return {0, 0, ''} end
if redis.call('HEXISTS', STEPS .. run, key .. ':state') == 1 then return {0, 0, ''} end
local signal, due = was.signals and take_signal(run, was, name), now + ARGV[7]
if signal or due <= now then
  local memo = signal and memo_of_signal(signal, now, detail) or memo_of_time(now, detail)
  local _, position = record_memo(run, was, key, memo)
  return {3, position, memo}
end
store_wait(run, key, ARGV[5], detail, due, now, signal_index(run, was, name))
return {1, 0, ''}
