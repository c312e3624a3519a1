-- truth: the jobs and waits of a run, as its hash and its steps have them.

-- state of a job -> its status in RQ
local RQ_STATUS = {queued = 'queued', waitlisted = 'deferred', leased = 'started', delayed = 'scheduled', parked = 'deferred'}

-- a continuation (its key is '') or a planned step: its job's id and list, and the fields that the truth has
local function continuation_of(run, was)
  local list = was.list
  if was.continuation ~= 'leased' then list = was.queue and list_of(was.queue, was.started_at) end
  return {id = run, run = run, key = '', was = was, list = list, state = was.live and (was.continuation or 'parked'),
    lease = was.lease, owner = was.owner, due = was.continuation == 'delayed' and redis.call('HGET', RUN .. run, 'due')}
end

local function step_of(run, was, key, step)
  step.id, step.run, step.key, step.was, step.list = job_of(run, key), run, key, was, was.queue and list_of_step(run, was, key)
  return step
end

-- all jobs and waits of a live run
local function jobs_of(run, was)
  local jobs, steps, fields = {continuation_of(run, was)}, {}, redis.call('HGETALL', STEPS .. run)
  for i = 1, #fields, 2 do
    local key, name = string.match(fields[i], '^(%x+):?(%a*)$')
    if key then
      steps[key] = steps[key] or {}
      steps[key][name == '' and 'name' or name] = fields[i + 1]
    end
  end
  for key, step in pairs(steps) do jobs[#jobs + 1] = step_of(run, was, key, step) end
  return jobs
end

local function read_job(run, key)
  local was = read_run(run)
  if key == '' then return continuation_of(run, was) end
  local f = was.live and redis.call('HMGET', STEPS .. run, key, key .. ':state', key .. ':lease', key .. ':due', key .. ':index',
    key .. ':count')
    or {}
  return step_of(run, was, key, {name = f[1], state = f[2], lease = f[3], due = f[4], index = f[5], count = f[6]})
end

-- how RQ's tools describe a job
local function description_of(job)
  local name = job.was.app .. '/' .. job.was.function_id
  return job.key == '' and name or name .. ': ' .. string.sub(job.name or job.key, 1, 100)
end
