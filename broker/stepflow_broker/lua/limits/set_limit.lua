-- set_limit: change a limit of flow control, in place of that which the code declares, for a time or until it is reset.
-- A timer ends the change, and one gives the slots that are free now to the jobs that wait for them.
-- USES     clock audit
-- KEYS     1 limits
-- ARGV     1 now_ms  2 subject (kind and form)  3 limit  4 for_ms (0: until it is reset)  5 reason  6 who ('': not audited)
--          7 details (JSON)
-- MOVES    none
-- RETURNS  1 DONE
local now, subject = clock(ARGV[1]), ARGV[2]
local until_ms = ARGV[4] == '0' and 0 or now + ARGV[4]
redis.call('HSET', KEYS[1], subject, ARGV[3] .. ' ' .. until_ms .. ' ' .. now .. ' ' .. ARGV[5])
redis.call('ZREM', TIMEOUTS, 'limit:' .. subject)
if until_ms > 0 then redis.call('ZADD', TIMEOUTS, until_ms, 'limit:' .. subject) end
local name = string.match(subject, '^concurrency (.*)$')
if name then redis.call('ZADD', TIMEOUTS, now, 'resume:key ' .. name) end
audit(ARGV[6], 'set_limit', subject, ARGV[5], ARGV[7])
return 1
