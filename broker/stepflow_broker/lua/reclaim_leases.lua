-- reclaim_leases: queue the jobs of workers that died, before all others: their leases were not extended in time.
-- USES     clock jobs runs
-- KEYS     1 leases
-- ARGV     1 now_ms  2 limit
-- MOVES    running -> queued
-- RETURNS  list of the jobs reclaimed
local now = clock(ARGV[1])
local jobs = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[2])
for _, job in ipairs(jobs) do
  local run, key = split_job(job)
  if key == '' then
    local lease = redis.call('HGET', RUN .. run, 'lease')
    drop_lease(job, lease or '')
    if lease and is_live(run) then
      redis.call('HINCRBY', RUN .. run, 'deaths', 1)
      requeue_run(run, now, true)
    end
  else
    local lease = redis.call('HGET', STEPS .. run, key .. ':lease')
    drop_lease(job, lease or '')
    if lease and is_live(run) then
      redis.call('HINCRBY', STEPS .. run, key .. ':deaths', 1)
      requeue_step(run, key, now, true)
    end
  end
end
return jobs
