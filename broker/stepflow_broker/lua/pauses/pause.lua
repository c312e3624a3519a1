-- pause: stop the execution of a function, of a queue, or of a concurrency key, until it is resumed.
-- Queued work is kept. A second pause replaces the reason and keeps the time of the first.
-- USES     clock audit
-- KEYS     1 paused
-- ARGV     1 now_ms  2 subject  3 reason  4 who ('': not audited)
-- MOVES    none
-- RETURNS  1 PAUSED, 0 ALREADY
local was = redis.call('HGET', KEYS[1], ARGV[2])
local since = was and string.match(was, '^%d+') or clock(ARGV[1])
redis.call('HSET', KEYS[1], ARGV[2], since .. ' ' .. ARGV[3])
redis.call('PUBLISH', PAUSES, '')
if was ~= since .. ' ' .. ARGV[3] then audit(ARGV[4], 'pause', ARGV[2], ARGV[3], '{}') end
return was and 0 or 1
