-- start_bulk: start a bulk whose runs are selected, once. From now on it is the workers'.
-- USES     clock audit bulks
-- KEYS     1 bulk
-- ARGV     1 now_ms  2 bulk  3 matched (how many runs are selected)  4 who  5 reason  6 subject  7 details (JSON)
--          8.. field, value, ...
-- MOVES    none
-- RETURNS  1 STARTED, 0 ALREADY, -1 NO_RUN (the selected runs have expired)
local now, bulk, matched = clock(ARGV[1]), ARGV[2], tonumber(ARGV[3])
if redis.call('EXISTS', BULK .. bulk) == 1 then return 0 end
if redis.call('LLEN', BULK_RUNS .. bulk) ~= matched then return -1 end
redis.call('HSET', BULK .. bulk, 'state', 'running', 'matched', matched, 'created_at', now, 'who', ARGV[4],
  'reason', ARGV[5], unpack(ARGV, 8))
redis.call('PERSIST', BULK_RUNS .. bulk)
redis.call('ZREMRANGEBYSCORE', BULKS, '-inf', now)
redis.call('ZADD', BULKS, '+inf', bulk)
if matched == 0 then end_bulk(bulk, 'completed', now) end
audit(ARGV[4], 'fork_many', ARGV[6], ARGV[5], ARGV[7])
return 1
