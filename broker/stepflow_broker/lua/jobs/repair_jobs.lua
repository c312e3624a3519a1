-- repair_jobs: queue the ready jobs of live runs and planned steps again where another tool has removed them.
-- `rq empty` deletes jobs, and a plain `rq worker` takes and fails them. The hashes of runs and steps say which jobs
-- there must be.
-- USES     clock jobs waits state concurrency runs
-- KEYS     1 live
-- ARGV     1 now_ms  2 cursor  3 count
-- MOVES    step queued -> gated; promote
-- RETURNS  {next cursor, list of the repaired jobs}
local now = clock(ARGV[1])
local page = redis.call('ZSCAN', KEYS[1], ARGV[2], 'COUNT', ARGV[3])
local repaired = {}

local function is_missing(job)
  return redis.call('HGET', RQ_JOB .. job, 'status') ~= 'queued'
end

for i = 1, #page[2], 2 do
  local run = page[2][i]
  local was = read_run(run)
  if was.continuation == 'queued' and is_missing(run) then
    push_job(run, list_of(was.queue, was.started_at), was.app .. '/' .. was.function_id, now)
    repaired[#repaired + 1] = run
  end
  local steps = redis.call('HGETALL', STEPS .. run)
  for n = 1, #steps, 2 do
    local key = steps[n + 1] == 'queued' and string.match(steps[n], '^(%x+):state$')
    if key and is_missing(job_of(run, key)) then
      requeue_step(run, was, key, now)
      repaired[#repaired + 1] = job_of(run, key)
    end
  end
end
return {page[1], repaired}
