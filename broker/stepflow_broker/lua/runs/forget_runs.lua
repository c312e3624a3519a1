-- forget_runs: take runs whose retention is over out of all indexes.
-- A run that still exists stays in them: its retention began when its parent knew of its end, or was extended.
-- USES     clock indexes
-- KEYS     1 expiry
-- ARGV     1 now_ms  2 limit
-- MOVES    none
-- RETURNS  {how many runs were due, how many of them were gone}
local AGAIN_MS = 60000 -- when a run is examined again that has no expiry yet
local now, gone = clock(ARGV[1]), 0
local due = redis.call('ZRANGEBYSCORE', EXPIRY, '-inf', now, 'LIMIT', 0, ARGV[2])
for _, entry in ipairs(due) do
  local run, at = string.match(entry, '^(%S+) ()')
  local ttl = redis.call('PTTL', RUN .. (run or ''))
  if ttl ~= -2 then
    redis.call('ZADD', EXPIRY, now + (ttl > 0 and ttl or AGAIN_MS), entry)
  else
    local subjects = unpack_texts(entry, at)
    local name = subjects[1] or ''
    subjects[1] = 'function ' .. name
    subjects[#subjects + 1] = 'ended ' .. name
    subjects[#subjects + 1] = 'failed ' .. name
    for _, subject in ipairs(subjects) do redis.call('ZREM', INDEX .. subject, run or '') end
    if redis.call('EXISTS', INDEX .. 'function ' .. name) == 0 then redis.call('SREM', RUN_FUNCTIONS, name) end
    redis.call('ZREM', EXPIRY, entry)
    gone = gone + 1
  end
end
return {#due, gone}
