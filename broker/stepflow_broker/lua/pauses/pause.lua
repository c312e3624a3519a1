-- pause: let nothing more be executed of a function, from a queue, or for a key, until it is resumed. Nothing is dropped.
-- Paused again, it has the new reason, and is paused since the first time.
-- USES     clock
-- KEYS     1 paused
-- ARGV     1 now_ms  2 subject  3 reason
-- MOVES    none
-- RETURNS  1 PAUSED, 0 ALREADY
local was = redis.call('HGET', KEYS[1], ARGV[2])
local since = was and string.match(was, '^%d+') or clock(ARGV[1])
redis.call('HSET', KEYS[1], ARGV[2], since .. ' ' .. ARGV[3])
redis.call('PUBLISH', PAUSES, '')
return was and 0 or 1
