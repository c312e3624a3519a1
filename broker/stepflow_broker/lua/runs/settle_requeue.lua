-- settle_requeue: delete the note that RQ's tools have requeued a failed run.
-- If the run was retried, its job leaves RQ. If it cannot be retried, its job is a failed job of RQ again.
-- USES     clock
-- KEYS     1 requeued  2 run
-- ARGV     1 now_ms  2 run  3 noted_at  4 is_retried (1 or 0)
-- MOVES    none
-- RETURNS  1 SETTLED, 0 ALREADY
local now, run = clock(ARGV[1]), ARGV[2]
if redis.call('HGET', KEYS[1], run) ~= ARGV[3] then return 0 end
redis.call('HDEL', KEYS[1], run)
local was = redis.call('HMGET', KEYS[2], 'queue', 'error', 'keep_ms')
if ARGV[4] == '1' or not was[1] then
  redis.call('DEL', RQ_JOB .. run)
  return 1
end
local left_ms = redis.call('PTTL', KEYS[2])
if left_ms < 0 then left_ms = tonumber(was[3]) end -- its parent does not know of its end yet
redis.call('HSET', RQ_JOB .. run, 'status', 'failed', 'ended_at', iso8601(now), 'exc_info', was[2])
redis.call('PEXPIRE', RQ_JOB .. run, left_ms)
redis.call('ZADD', RQ_FAILED .. was[1], math.floor((now + left_ms) / 1000), run)
return 1
