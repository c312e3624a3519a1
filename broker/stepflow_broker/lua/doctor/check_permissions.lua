-- check_permissions: use every command that the scripts use, on a key of nobody's that is gone again at the end.
-- KEYS     1 run (of nobody)
-- ARGV     1 channel  2.. keys of other kinds, of nobody or to be left as they are
-- MOVES    none
-- RETURNS  list of what the user may not do, in the server's words
local key, refused = KEYS[1], {}

-- the words of a try: the command, or its subcommand, and the key
local function described(words)
  if words[1] == 'XINFO' or words[1] == 'XGROUP' then return words[1] .. '|' .. words[2] .. ' ' .. words[3] end
  return table.concat(words, ' ', 1, math.min(2, #words))
end

-- a command that is refused for another reason than a missing right is one that may be used
local function try(words)
  local reply = redis.pcall(unpack(words))
  local text = type(reply) == 'table' and reply.err
  if text and (string.find(text, 'NOPERM') or string.find(text, 'ACL failure') or string.find(text, "can't run this command")
    or string.find(text, "can't access")) then
    refused[#refused + 1] = described(words)
  end
end

for _, words in ipairs({
  {'TIME'}, {'SET', key, 1}, {'GET', key}, {'INCR', key}, {'EXISTS', key}, {'PEXPIRE', key, 1000}, {'PTTL', key}, {'PERSIST', key},
  {'DEL', key}, {'UNLINK', key}, {'HSET', key, 'f', 1}, {'HSETNX', key, 'f', 1}, {'HGET', key, 'f'}, {'HMGET', key, 'f'},
  {'HGETALL', key}, {'HKEYS', key}, {'HLEN', key}, {'HEXISTS', key, 'f'}, {'HINCRBY', key, 'f', 1}, {'HDEL', key, 'f'},
  {'RPUSH', key, 1}, {'LPUSH', key, 1}, {'LLEN', key}, {'LINDEX', key, 0}, {'LRANGE', key, 0, 1}, {'LPOS', key, 1}, {'LPOP', key},
  {'LREM', key, 1, 1}, {'LTRIM', key, 0, 1}, {'SADD', key, 1}, {'SMEMBERS', key}, {'SISMEMBER', key, 1}, {'SCARD', key}, {'SREM', key, 1},
  {'ZADD', key, 1, 1}, {'ZCARD', key}, {'ZCOUNT', key, 0, 1}, {'ZSCORE', key, 1}, {'ZRANGE', key, 0, 0}, {'ZRANGEBYSCORE', key, 0, 1},
  {'ZRANGEBYLEX', key, '-', '+'}, {'ZREVRANGE', key, 0, 0}, {'ZREVRANK', key, 1},
  {'ZSCAN', key, 0}, {'ZREMRANGEBYSCORE', key, 0, 0}, {'ZPOPMIN', key}, {'ZREM', key, 1},
  {'XADD', key, '*', 'f', 1}, {'XRANGE', key, '-', '+', 'COUNT', 1}, {'XREVRANGE', key, '+', '-', 'COUNT', 1}, {'XLEN', key},
  {'XACK', key, 'g', '1-1'}, {'XPENDING', key, 'g'}, {'XDEL', key, '1-1'},
  {'XINFO', 'CONSUMERS', key, 'g'}, {'XGROUP', 'DELCONSUMER', key, 'g', 'c'},
  {'PUBLISH', ARGV[1], 'cancelled'},
}) do try(words) end
try({'DEL', key})
for i = 2, #ARGV do
  try({'EXISTS', ARGV[i]})
  try({'PERSIST', ARGV[i]})
end
return refused
