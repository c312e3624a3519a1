-- examine_counts: compare a count of waits for an event with the waits in indexes of it.
-- With `repair`, raise one that is too low. One that is too high may be right: the caller may not know of every index.
-- KEYS     1 waited
-- ARGV     1 repair (1 or 0)  2 paths  3.. indexes
-- MOVES    none
-- RETURNS  {the count less the waits, 1 REPAIRED | 0 FOUND}
local waits = 0
for i = 3, #ARGV do waits = waits + redis.call('SCARD', WAITS .. ARGV[i]) end
local difference = tonumber(redis.call('HGET', KEYS[1], ARGV[2]) or 0) - waits
if difference >= 0 or ARGV[1] ~= '1' then return {difference, 0} end
redis.call('HINCRBY', KEYS[1], ARGV[2], -difference)
return {difference, 1}
