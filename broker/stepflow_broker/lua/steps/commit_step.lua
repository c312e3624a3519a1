-- commit_step: store the memo of a step that the run's continuation has executed, once.
-- The continuation keeps its lease. This is the most frequent script, so it uses no library, reads as little as possible,
-- and checks only the rights that it needs after its first write. Only a repeated call, with an equal memo, gets
-- ALREADY_STORED. A worker with another result must not continue with it.
-- KEYS     1 run  2 memos  3 memo_order
-- ARGV     1 fence  2 step_key  3 memo
-- RIGHTS   RPUSH
-- MOVES    step none -> memo
-- RETURNS  {1 STORED | 0 ALREADY_STORED | -1 NO_RUN | -2 STALE_FENCE, position}
local state = redis.call('HMGET', KEYS[1], 'continuation', 'lease', 'deaths', 'ended_at')
local held = state[1] == 'leased' and state[2] == ARGV[1]
if held and state[3] then redis.call('HDEL', KEYS[1], 'deaths') end
if held and redis.call('HSETNX', KEYS[2], ARGV[2], ARGV[3]) == 1 then
  return {1, redis.call('RPUSH', KEYS[3], ARGV[2])}
end
if redis.call('HGET', KEYS[2], ARGV[2]) == ARGV[3] then
  return {0, redis.call('LPOS', KEYS[3], ARGV[2]) + 1}
end
local ended = state[4] or redis.call('EXISTS', KEYS[1]) == 0
return {ended and -1 or -2, 0}
