-- cache_result: store the result of a step for other runs. The last one counts.
-- Above MAX_RESULTS of a partition, those that expire first are deleted.
-- USES     clock
-- KEYS     1 cached_result  2 cached_results
-- ARGV     1 now_ms  2 digest  3 result (JSON)  4 ttl_ms
-- MOVES    none
-- RETURNS  1 STORED
local MAX_RESULTS = 10000
local now, ttl_ms = clock(ARGV[1]), tonumber(ARGV[4])
redis.call('SET', KEYS[1], ARGV[3], 'PX', ttl_ms)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
redis.call('ZADD', KEYS[2], now + ttl_ms, ARGV[2])
for _, digest in ipairs(redis.call('ZRANGE', KEYS[2], 0, -MAX_RESULTS - 1)) do
  redis.call('DEL', CACHED_RESULT .. digest)
  redis.call('ZREM', KEYS[2], digest)
end
if redis.call('PTTL', KEYS[2]) < ttl_ms then redis.call('PEXPIRE', KEYS[2], ttl_ms) end
return 1
