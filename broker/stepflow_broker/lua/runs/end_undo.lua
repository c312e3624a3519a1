-- end_undo: end a run whose undo handlers were executed, with the status and the error that it has stored.
-- A run with undo handlers that failed is listed for the doctor for as long as the run is kept.
-- USES     clock jobs waits state concurrency attempts indexes runs
-- KEYS     1 run  2 events  3 undo_failures
-- ARGV     1 now_ms  2 run  3 fence  4 retention_ms  5 version (of the worker's code; '': that of the run)
--          6 event (that reports the undo handlers that failed; '': none failed)  7 event_id
-- MOVES    run running -> failed|cancelled; continuation leased -> none;
--          step queued|waitlisted|leased|delayed -> none; promote
-- RETURNS  1 ENDED, 0 ALREADY_ENDED, -1 NO_RUN, -2 STALE_FENCE
local MAX_FAILURES = 1000
local run, was = ARGV[2], read_run(ARGV[2])
local plan = redis.call('HMGET', KEYS[1], 'undoing', 'error', 'failed_event', 'failed_event_id')
if not holds_run(was, ARGV[3]) or not plan[1] then
  return was.status and not was.live and 0 or refusal(was)
end
local now, retention_ms = clock(ARGV[1]), tonumber(ARGV[4])
redis.call('HDEL', KEYS[1], 'undoing', 'failed_event', 'failed_event_id')
-- before the end, with which a run that is not kept is gone
if ARGV[5] ~= '' then redis.call('HSET', KEYS[1], 'ended_version', ARGV[5]) end
end_run(run, was, plan[1], 'error', plan[2], now, retention_ms)
if plan[3] then redis.call('XADD', KEYS[2], '*', 'event', plan[3], 'id', plan[4], 'dedupe', 0) end
if ARGV[6] ~= '' then
  redis.call('XADD', KEYS[2], '*', 'event', ARGV[6], 'id', ARGV[7], 'dedupe', 0)
  redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now)
  redis.call('ZADD', KEYS[3], now + retention_ms, run)
  for _, first in ipairs(redis.call('ZRANGE', KEYS[3], 0, -MAX_FAILURES - 1)) do redis.call('ZREM', KEYS[3], first) end
  redis.call('PEXPIRE', KEYS[3], math.floor(redis.call('ZRANGE', KEYS[3], -1, -1, 'WITHSCORES')[2] - now))
end
return 1
