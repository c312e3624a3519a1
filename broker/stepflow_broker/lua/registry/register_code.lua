-- register_code: note the functions of which a live worker has the code. Each worker repeats it. Without that, it expires.
-- Workers with the same functions share one set.
-- Jobs that workers have left to another version of the code are queued again when no live worker has one any more. Of
-- pinned runs, only those that have not started.
-- USES     clock jobs state concurrency code
-- KEYS     1 code  2 codes  3 code_waits
-- ARGV     1 now_ms  2 digest (of the names)  3 ttl_ms  4.. names, and the version of the code
-- MOVES    promote
-- RETURNS  1 REGISTERED, 0 ALREADY (it is registered, and now for longer)
local now = clock(ARGV[1])
local expires_at = redis.call('EXISTS', KEYS[1]) == 1 and redis.call('ZSCORE', KEYS[2], ARGV[2])
for i = 4, #ARGV do redis.call('SADD', KEYS[1], ARGV[i]) end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('ZADD', KEYS[2], now + ARGV[3], ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
local MAX_PROMOTED = 500 -- of one wait list, in one script

-- whether the jobs of a wait list wait for a version that no live worker has, and can do without it
local function is_in_vain(list, name, left_by)
  local release = release_of(left_by)
  if release then return not string.match(list, ':steps$') and not has_release(name, release, now) end
  return left_by and not has_other_version(name, left_by, now)
end

for _, subject in ipairs(redis.call('SMEMBERS', KEYS[3])) do
  local list, name, left_by = string.match(subject, '^(.-)\n(.-)\n(.*)$')
  if is_in_vain(list, name, left_by) then
    local jobs = redis.call('ZPOPMIN', WAIT_LIST .. 'code ' .. subject, MAX_PROMOTED)
    for i = 1, #jobs, 2 do promote(jobs[i], 'code ' .. subject, now) end
    if redis.call('EXISTS', WAIT_LIST .. 'code ' .. subject) == 0 then redis.call('SREM', KEYS[3], subject) end
  end
end
for _, digest in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], now + ARGV[3] + AHEAD_MS, '+inf')) do -- the clock was ahead
  redis.call('ZADD', KEYS[2], now + ARGV[3], digest)
  redis.call('PEXPIRE', CODE .. digest, ARGV[3])
end
return expires_at and tonumber(expires_at) > now and 0 or 1
