-- resume: end the pause of a function, a queue or a concurrency key.
-- A timer queues the deferred jobs, so no crash loses them.
-- USES     clock audit
-- KEYS     1 paused
-- ARGV     1 now_ms  2 subject  3 who ('': not audited)
-- MOVES    none
-- RETURNS  1 RESUMED, 0 ALREADY
if redis.call('HDEL', KEYS[1], ARGV[2]) == 0 then return 0 end
redis.call('ZADD', TIMEOUTS, clock(ARGV[1]), 'resume:' .. ARGV[2])
redis.call('PUBLISH', PAUSES, '')
audit(ARGV[3], 'resume', ARGV[2], '', '{}')
return 1
