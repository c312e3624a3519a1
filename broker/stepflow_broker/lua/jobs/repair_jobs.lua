-- repair_jobs: queue the ready jobs of live runs and planned steps again where another tool has removed them.
-- `rq empty` deletes jobs, and a plain `rq worker` takes and fails them. The hashes of runs and steps say which jobs
-- there must be. It also sends delayed events that are overdue: a worker of an older version has dropped their timers.
-- USES     clock jobs waits state concurrency attempts indexes runs truth delayed_events
-- KEYS     1 live
-- ARGV     1 now_ms  2 cursor  3 count
-- MOVES    step queued -> waitlisted; promote
-- RETURNS  {next cursor, list of the repaired jobs}
local now = clock(ARGV[1])
local page = redis.call('ZSCAN', KEYS[1], ARGV[2], 'COUNT', ARGV[3])
local repaired = {}
local OVERDUE_MS, MAX_OVERDUE = 5000, 100 -- of delayed events, in one script
for _, id in ipairs(redis.call('ZRANGEBYSCORE', DELAYED_EVENTS, '-inf', now - OVERDUE_MS, 'LIMIT', 0, MAX_OVERDUE)) do
  redis.call('ZREM', TIMEOUTS, 'event:' .. id)
  send_delayed_event(id)
end

for i = 1, #page[2], 2 do
  local run = page[2][i]
  local was = read_run(run)
  for _, job in ipairs(jobs_of(run, was)) do
    if job.state == 'queued' and redis.call('HGET', RQ_JOB .. job.id, 'status') ~= RQ_STATUS.queued then
      if job.key == '' then push_job(run, job.list, description_of(job), now) else requeue_step(run, was, job.key, now) end
      repaired[#repaired + 1] = job.id
    end
  end
end
return {page[1], repaired}
