-- add_bulk_runs: add a page of selected runs to a bulk that has not started, once. They expire if it never starts.
-- KEYS     1 bulk_runs
-- ARGV     1 position (how many runs were added before)  2 expiry_ms  3.. runs
-- MOVES    none
-- RETURNS  1 ADDED, 0 ALREADY (or the earlier runs have expired: the start of the bulk finds it)
if redis.call('LLEN', KEYS[1]) ~= tonumber(ARGV[1]) then return 0 end
redis.call('RPUSH', KEYS[1], unpack(ARGV, 3))
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
