-- register_code: note the functions of which a live worker has the code. Each worker repeats it. Without that, it expires.
-- Workers with the same functions share one set.
-- USES     clock
-- KEYS     1 code  2 codes
-- ARGV     1 now_ms  2 digest (of the names)  3 ttl_ms  4.. names
-- MOVES    none
-- RETURNS  1 REGISTERED
local now = clock(ARGV[1])
for i = 4, #ARGV do redis.call('SADD', KEYS[1], ARGV[i]) end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('ZADD', KEYS[2], now + ARGV[3], ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
for _, digest in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], now + ARGV[3] + AHEAD_MS, '+inf')) do -- the clock was ahead
  redis.call('ZADD', KEYS[2], now + ARGV[3], digest)
  redis.call('PEXPIRE', CODE .. digest, ARGV[3])
end
return 1
