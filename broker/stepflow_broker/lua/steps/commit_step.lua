-- commit_step: store the memo of a step that the run's continuation has executed, once; the continuation goes on.
-- The script that is sent most often: it uses no library and looks at as little as it can. A resend alone is told
-- that the memo is stored already: a worker whose result is another must not go on with it.
-- KEYS     1 run  2 memos  3 order
-- ARGV     1 fence  2 step_key  3 memo
-- MOVES    step none -> memo
-- RETURNS  {1 STORED | 0 ALREADY_STORED | -1 NO_RUN | -2 STALE_FENCE, position}
local state = redis.call('HMGET', KEYS[1], 'continuation', 'lease', 'deaths', 'ended_at')
local held = state[1] == 'leased' and state[2] == ARGV[1]
if held and redis.call('HSETNX', KEYS[2], ARGV[2], ARGV[3]) == 1 then
  if state[3] then redis.call('HDEL', KEYS[1], 'deaths') end
  return {1, redis.call('RPUSH', KEYS[3], ARGV[2])}
end
if redis.call('HGET', KEYS[2], ARGV[2]) == ARGV[3] then
  return {0, redis.call('LPOS', KEYS[3], ARGV[2]) + 1}
end
local ended = state[4] or redis.call('EXISTS', KEYS[1]) == 0
return {ended and -1 or -2, 0}
