-- reclaim_leases: queue the jobs of workers that died, before all others: their leases were not extended in time.
-- When nobody has looked for a while, because the server was away, or all workers were, the first look only notes its
-- time: workers that live extend their leases before the next, and are not counted as dead.
-- USES     clock jobs waits state gates runs
-- KEYS     1 leases  2 looked
-- ARGV     1 now_ms  2 limit
-- MOVES    running -> queued
-- RETURNS  list of the jobs reclaimed
local GAP_MS = 15000
local now = clock(ARGV[1])
local looked = redis.call('GET', KEYS[2])
redis.call('SET', KEYS[2], now)
if redis.call('EXISTS', KEYS[1]) == 0 or looked and now - looked > GAP_MS then return {} end
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
