-- extend_leases: keep the leases of jobs that a worker still works on.
-- USES     clock jobs
-- KEYS     1 leases
-- ARGV     1 now_ms  2 lease_ms  3.. job, fence, ...
-- MOVES    (none)
-- RETURNS  list of the jobs whose lease is lost
local expiry, lost = clock(ARGV[1]) + tonumber(ARGV[2]), {}
local shown_until = math.floor(expiry / 1000) + RQ_GRACE_S
for i = 3, #ARGV, 2 do
  local job = ARGV[i]
  local run, key = split_job(job)
  if holds(run, key, ARGV[i + 1]) then
    redis.call('ZADD', KEYS[1], expiry, job)
    local list = redis.call('HGET', RQ_JOB .. job, 'origin')
    if list then redis.call('ZADD', RQ_WIP .. list, 'XX', shown_until, job .. ':' .. ARGV[i + 1]) end
  else
    lost[#lost + 1] = job
  end
end
return lost
