-- reset_limit: let a limit of flow control be again what the code declares.
-- USES     clock audit
-- KEYS     1 limits
-- ARGV     1 now_ms  2 subject (kind and form)  3 who ('': not audited)
-- MOVES    none
-- RETURNS  1 DONE, 0 ALREADY
local subject = ARGV[2]
if redis.call('HDEL', KEYS[1], subject) == 0 then return 0 end
redis.call('ZREM', TIMEOUTS, 'limit:' .. subject)
local name = string.match(subject, '^concurrency (.*)$')
if name then redis.call('ZADD', TIMEOUTS, clock(ARGV[1]), 'resume:key ' .. name) end
audit(ARGV[3], 'reset_limit', subject, '', '{}')
return 1
