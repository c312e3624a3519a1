-- resume: let a function, a queue or a key go on.
-- What was put aside goes back to its queue by a timer, so that it does whoever dies.
-- USES     clock
-- KEYS     1 paused
-- ARGV     1 now_ms  2 subject
-- MOVES    none
-- RETURNS  1 RESUMED, 0 ALREADY
if redis.call('HDEL', KEYS[1], ARGV[2]) == 0 then return 0 end
redis.call('ZADD', TIMEOUTS, clock(ARGV[1]), 'resume:' .. ARGV[2])
redis.call('PUBLISH', PAUSES, '')
return 1
