-- load_run: the fields of a run, and its memos in the order in which they were recorded, from a position on.
-- KEYS     1 run  2 memos  3 memo_order
-- ARGV     1 applied (how many memos to leave out)  2 with_run (1 or 0)
-- MOVES    none
-- RETURNS  {run fields, {key, memo, key, memo, ...}}
local fields = ARGV[2] == '1' and redis.call('HGETALL', KEYS[1]) or {}
local keys = redis.call('LRANGE', KEYS[3], ARGV[1], -1)
local memos = {}
for first = 1, #keys, 1000 do
  local part = {unpack(keys, first, math.min(first + 999, #keys))}
  local texts = redis.call('HMGET', KEYS[2], unpack(part))
  for i, key in ipairs(part) do
    memos[#memos + 1] = key
    memos[#memos + 1] = texts[i]
  end
end
return {fields, memos}
