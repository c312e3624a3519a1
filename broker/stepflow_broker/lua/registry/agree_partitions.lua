-- agree_partitions: into how many partitions the keys are divided; who asks first decides.
-- KEYS     1 partitions
-- ARGV     1 how many
-- MOVES    none
-- RETURNS  how many
redis.call('SET', KEYS[1], ARGV[1], 'NX')
return tonumber(redis.call('GET', KEYS[1]))
