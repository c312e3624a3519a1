-- reclaim_leases: queue the jobs of workers that died, before all others: their leases were not extended in time.
-- USES     clock jobs waits state gates runs
-- KEYS     1 leases
-- ARGV     1 now_ms  2 limit
-- MOVES    running -> queued
-- RETURNS  list of the jobs reclaimed
if redis.call('EXISTS', KEYS[1]) == 0 then return {} end
local now = clock(ARGV[1])
local jobs = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[2])
for _, job in ipairs(jobs) do
  local run, key = split_job(job)
  redis.call('ZREM', KEYS[1], job) -- first: one that is damaged must not hold up the others
  local was = read_run(run)
  if key == '' then
    if was.live and was.lease then
      end_lease(job, was, was.list, was.lease, now)
      redis.call('HINCRBY', RUN .. run, 'deaths', 1)
      requeue_run(run, was, now, true)
    end
  else
    local lease = redis.call('HGET', STEPS .. run, key .. ':lease')
    if was.live and lease then
      end_lease(job, was, list_of(was.queue, true), lease, now)
      redis.call('HINCRBY', STEPS .. run, key .. ':deaths', 1)
      requeue_step(run, was, key, now, true)
    end
  end
end
return jobs
