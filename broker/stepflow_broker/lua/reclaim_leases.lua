-- reclaim_leases: queue the jobs of workers that died, before all others: their leases were not extended in time.
-- When nobody has looked for a while, because the server or all workers were away, or its clock was set ahead, nobody
-- is counted as dead until half a lease later: workers that live have extended their leases by then.
-- USES     clock jobs waits state gates runs
-- KEYS     1 leases  2 looked
-- ARGV     1 now_ms  2 limit  3 lease_ms
-- MOVES    running -> queued
-- RETURNS  list of the jobs reclaimed
local GAP_MS = 6000 -- each worker looks every four seconds
local now, grace_ms = clock(ARGV[1]), math.floor(ARGV[3] / 2) + 1000
local looked, not_before = string.match(redis.call('GET', KEYS[2]) or '', '^(%d+) (%d+)$')
looked, not_before = tonumber(looked), math.min(tonumber(not_before) or 0, now + grace_ms)
-- a look that was put off is not put off again: looks may be far apart
if looked and now - looked > GAP_MS and looked >= not_before then not_before = now + grace_ms end
redis.call('SET', KEYS[2], now .. ' ' .. not_before)
if now < not_before or redis.call('EXISTS', KEYS[1]) == 0 then return {} end
local jobs = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[2])
for _, job in ipairs(jobs) do
  local run, key = split_job(job)
  local was = read_run(run)
  -- the count first: a server without memory refuses that, and with it all; it refuses to extend leases as well
  if key == '' then
    if was.live and was.lease then
      redis.call('HINCRBY', RUN .. run, 'deaths', 1)
      end_lease(job, was, was.list, was.lease, now)
      requeue_run(run, was, now, true)
    end
  else
    local lease = redis.call('HGET', STEPS .. run, key .. ':lease')
    if was.live and lease then
      redis.call('HINCRBY', STEPS .. run, key .. ':deaths', 1)
      end_lease(job, was, list_of(was.queue, true), lease, now)
      requeue_step(run, was, key, now, true)
    end
  end
  redis.call('ZREM', KEYS[1], job)
end
return jobs
