-- register_functions: store the configs of an app's functions, so that events and references find them.
-- The queue of a function may change while it has runs, which keep theirs. So each queue that it ever had is noted.
-- A worker that only restores what was lost or forgotten replaces no config: that of newer code may be there.
-- KEYS     1 functions  2 version  3 function_queues
-- ARGV     1 only_missing (1 or 0)  2.. name, config, queue, ...
-- MOVES    none
-- RETURNS  the version of the registry
local changed = false
for i = 2, #ARGV, 3 do
  redis.call('SADD', KEYS[3], ARGV[i] .. '\n' .. ARGV[i + 2])
  local stored = redis.call('HGET', KEYS[1], ARGV[i])
  if not stored or ARGV[1] == '0' and stored ~= ARGV[i + 1] then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
    changed = true
  end
end
if changed then return redis.call('INCR', KEYS[2]) end
return tonumber(redis.call('GET', KEYS[2]) or 0)
