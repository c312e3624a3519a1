-- forget_function: delete what is registered of a function, so that no event and no schedule starts it any more.
-- It is refused while a live worker has the code, because that would register the function again.
-- USES     clock audit
-- KEYS     1 functions  2 version  3 function_queues  4 codes  5 cron  6 paused
-- ARGV     1 now_ms  2 name  3 who ('': not audited)
-- MOVES    none
-- RETURNS  1 FORGOTTEN, 0 ALREADY, 4 SERVED
local name = ARGV[2]
for _, digest in ipairs(redis.call('ZRANGEBYSCORE', KEYS[4], clock(ARGV[1]), '+inf')) do
  if redis.call('SISMEMBER', CODE .. digest, name) == 1 then return 4 end
end
local starts = name .. '\n'
for _, member in ipairs(redis.call('SMEMBERS', KEYS[3])) do
  if string.sub(member, 1, #starts) == starts then redis.call('SREM', KEYS[3], member) end
end
for _, schedule in ipairs(redis.call('HKEYS', KEYS[5])) do
  if string.sub(schedule, 1, #starts) == starts then redis.call('HDEL', KEYS[5], schedule) end
end
redis.call('HDEL', KEYS[6], 'function ' .. name)
if redis.call('HDEL', KEYS[1], name) == 0 then return 0 end
redis.call('INCR', KEYS[2])
audit(ARGV[3], 'forget', 'function ' .. name, '', '{}')
return 1
