-- reclaim_leases: queue the jobs of dead workers, ahead of all others: jobs whose leases have expired.
-- After a gap between scans, because the server or all workers were down or the clock was set ahead, live workers could
-- not extend their leases. So a grace window of half a lease and a second begins, in which only leases count that had
-- expired at the last scan before the gap. Live workers extend the others in that window.
-- The death of a worker is an attempt that the run keeps: of the step that it executed, or of the run's own code.
-- USES     clock jobs waits state concurrency attempts indexes runs
-- KEYS     1 leases  2 last_lease_scan
-- ARGV     1 now_ms  2 limit  3 lease_ms
-- MOVES    run running -> queued; continuation leased -> queued|waitlisted; step leased -> queued|waitlisted; promote
-- RETURNS  list of the jobs reclaimed
-- a worker scans every four seconds, or, with a shorter lease than ten seconds, after two fifths of its lease
local gap_ms = math.min(6000, ARGV[3] * 0.6)
local now, grace_ms = clock(ARGV[1]), math.floor(ARGV[3] / 2) + 1000
local last, before_gap, grace_until = string.match(redis.call('GET', KEYS[2]) or '', '^(%d+) (%d+) (%d+)$')
last, before_gap, grace_until = tonumber(last), tonumber(before_gap) or 0, tonumber(grace_until) or 0
if last and now - last > gap_ms then before_gap, grace_until = last, now + grace_ms end
grace_until = math.min(grace_until, now + grace_ms) -- the clock may have been set back
redis.call('SET', KEYS[2], now .. ' ' .. before_gap .. ' ' .. grace_until)
if redis.call('EXISTS', KEYS[1]) == 0 then return {} end
shorten(KEYS[1], math.max(LONGEST_LEASE_MS, ARGV[3]), now + math.max(RESERVED_MS, ARGV[3]), now)
local expired_at = now < grace_until and math.min(before_gap, now) or now

-- record that a worker died with a job: a line with its name and the time
local function record_death(hash, field, owner)
  local deaths = redis.call('HGET', hash, field)
  redis.call('HSET', hash, field, (deaths and deaths .. '\n' or '') .. (owner or '?') .. ' at ' .. iso8601(now))
end

local jobs = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', expired_at, 'LIMIT', 0, ARGV[2])
for _, job in ipairs(jobs) do
  local run, key = split_job(job)
  local was = read_run(run)
  -- record the death first: a server that is out of memory refuses this write, and so the whole script
  if key == '' then
    if was.live and was.lease then
      record_death(RUN .. run, 'deaths', was.owner)
      local step_key, id, since = executing_step(run, was)
      local f = redis.call('HMGET', RUN .. run, 'attempt', 'leased_at')
      keep_death(run, step_key or '', step_key and 1 or (f[1] or 0) + 1, id or '', since or f[2], now, was.owner)
      end_lease(job, was, was.list, was.lease, now)
      requeue_run(run, was, now, true)
    end
  else
    local step = redis.call('HMGET', STEPS .. run, key .. ':lease', key .. ':owner', key .. ':attempt', key,
      key .. ':leased_at')
    if was.live and step[1] then
      record_death(STEPS .. run, key .. ':deaths', step[2])
      keep_death(run, key, (step[3] or 0) + 1, step[4] or '', step[5], now, step[2])
      end_lease(job, was, list_of_step(run, was, key), step[1], now)
      requeue_step(run, was, key, now, true)
    end
  end
  redis.call('ZREM', KEYS[1], job)
end
return jobs
