-- reclaim_leases: queue the jobs of workers that died, before all others: their leases were not extended in time.
-- When nobody has looked for a while, because the server or all workers were away, or its clock was set ahead, only those
-- count, for half a lease and a second, that were over when somebody last looked: workers that live extend the others
-- meanwhile, and are not taken for dead.
-- USES     clock jobs waits state concurrency runs
-- KEYS     1 leases  2 looked
-- ARGV     1 now_ms  2 limit  3 lease_ms
-- MOVES    run running -> queued; continuation leased -> queued|gated; step leased -> queued|gated; promote
-- RETURNS  list of the jobs reclaimed
local GAP_MS = 6000 -- each worker looks every four seconds
local now, grace_ms = clock(ARGV[1]), math.floor(ARGV[3] / 2) + 1000
local looked, before, until_ms = string.match(redis.call('GET', KEYS[2]) or '', '^(%d+) (%d+) (%d+)$')
looked, before, until_ms = tonumber(looked), tonumber(before) or 0, tonumber(until_ms) or 0
if looked and now - looked > GAP_MS then before, until_ms = looked, now + grace_ms end
until_ms = math.min(until_ms, now + grace_ms) -- the clock may have been set back
redis.call('SET', KEYS[2], now .. ' ' .. before .. ' ' .. until_ms)
if redis.call('EXISTS', KEYS[1]) == 0 then return {} end
local over = now < until_ms and math.min(before, now) or now

-- who died with a job, and when; a line for each
local function note_death(hash, field, owner)
  local before = redis.call('HGET', hash, field)
  redis.call('HSET', hash, field, (before and before .. '\n' or '') .. (owner or '?') .. ' at ' .. iso8601(now))
end

local jobs = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', over, 'LIMIT', 0, ARGV[2])
for _, job in ipairs(jobs) do
  local run, key = split_job(job)
  local was = read_run(run)
  -- the note first: a server without memory refuses that, and with it all; it refuses to extend leases as well
  if key == '' then
    if was.live and was.lease then
      note_death(RUN .. run, 'deaths', was.owner)
      end_lease(job, was, was.list, was.lease, now)
      requeue_run(run, was, now, true)
    end
  else
    local step = redis.call('HMGET', STEPS .. run, key .. ':lease', key .. ':owner')
    if was.live and step[1] then
      note_death(STEPS .. run, key .. ':deaths', step[2])
      end_lease(job, was, list_of(was.queue, true), step[1], now)
      requeue_step(run, was, key, now, true)
    end
  end
  redis.call('ZREM', KEYS[1], job)
end
return jobs
