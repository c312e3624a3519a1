-- register_functions: store the configs of an app's functions, so that events and references find them.
-- KEYS     1 functions  2 version
-- ARGV     1.. name, config, ...
-- MOVES    none
-- RETURNS  the version of the registry
local changed = false
for i = 1, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[i]) ~= ARGV[i + 1] then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
    changed = true
  end
end
if changed then return redis.call('INCR', KEYS[2]) end
return tonumber(redis.call('GET', KEYS[2]) or 0)
