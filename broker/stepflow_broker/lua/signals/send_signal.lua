-- send_signal: send a live run a signal, once. It ends the wait for its name that has begun first. Without one it is kept.
-- USES     clock jobs waits state concurrency attempts indexes runs signals
-- KEYS     1 run
-- ARGV     1 now_ms  2 run  3 name  4 id_digest  5 signal (its JSON without its first brace and its time)
-- MOVES    step waiting -> memo; wake
-- RETURNS  {1 SENT | 0 ALREADY | -1 NO_RUN | -8 FULL, the status of a run that has ended, `undoing` and the status
--          that a run will have, or what a run is full of}
local run, name, was = ARGV[2], ARGV[3], read_run(ARGV[2])
if redis.call('SISMEMBER', SIGNAL_IDS .. run, ARGV[4]) == 1 then return {0, ''} end
if not was.live then return {-1, was.status or ''} end
local undoing = redis.call('HGET', RUN .. run, 'undoing') -- its code receives nothing more
if undoing then return {-1, 'undoing ' .. undoing} end
local now = clock(ARGV[1])
local signal = '{"at":' .. now .. ',' .. ARGV[5]
local key, index = first_signal_wait(run, name)
local full = not key and full_of(run, was, #signal)
if full then return {-8, full} end
redis.call('SADD', SIGNAL_IDS .. run, ARGV[4])
if not key then
  keep_signal(run, was, name, signal)
  return {1, ''}
end
local memo = memo_of_signal(signal, now, redis.call('HGET', STEPS .. run, key .. ':detail'))
drop_wait(run, key, index)
local _, position = record_memo(run, was, key, memo)
wake_run(run, was, key, position, now, '')
return {1, ''}
