-- agree_partitions: the number of partitions of the keys. The first caller sets it.
-- KEYS     1 partitions
-- ARGV     1 count
-- MOVES    none
-- RETURNS  the count that all processes use
redis.call('SET', KEYS[1], ARGV[1], 'NX')
return tonumber(redis.call('GET', KEYS[1]))
