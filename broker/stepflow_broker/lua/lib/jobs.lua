-- jobs: jobs in RQ's format, on RQ's lists, with leases.
-- Jobs can be rebuilt: the run's field `continuation` and the hash of its steps say which jobs there must be.

local RQ_GRACE_S = 3600 -- added to leases in RQ's own sets, so that RQ's clean-up never fails a job of stepflow

local OWN_DATA = '["stepflow_workers.' -- the beginning of the data of own jobs

local function job_of(run, key)
  return key == '' and run or run .. '-' .. key
end

local function split_job(job)
  local run, key = string.match(job, '^([^-]*)-(.*)$')
  if run then return run, key end
  return job, ''
end

-- whether a job of RQ belongs to another program: it has no run, and other data than the jobs of stepflow
local function is_foreign(job)
  if redis.call('EXISTS', RUN .. split_job(job)) == 1 then return false end
  local data = redis.call('HGET', RQ_JOB .. job, 'data')
  return data and string.sub(data, 1, #OWN_DATA) ~= OWN_DATA
end

-- jobs of started runs have a list of their own, which workers empty first
local function list_of(queue, started)
  return started and queue .. ':steps' or queue
end

-- the list of the job of a planned step. Only runs with `step_queues` have steps with a queue of their own.
local function list_of_step(run, was, key)
  local own = was.step_queues and redis.call('HGET', STEPS .. run, key .. ':queue')
  return list_of(own or was.queue, true)
end

-- the lists on which a job of a run may be
local function lists_of_job(job, was)
  local run, key = split_job(job)
  if key ~= '' then return {list_of_step(run, was, key)} end
  return {list_of(was.queue, false), list_of(was.queue, true)}
end

local function describe_job(job, list, status, description, now, more)
  redis.call('HSET', RQ_JOB .. job, 'origin', list, 'status', status, 'description', description,
    'data', OWN_DATA .. 'rq_job.perform", null, ["' .. job .. '"], {}]',
    'created_at', iso8601(now), 'worker_name', '', 'started_at', '', unpack(more or {}))
end

local checked = {} -- the lists whose first job this script need not check

-- whether the first job of a list is not stepflow's. Workers leave the job of another program there, and are idle.
local function has_foreign_front(list, at_front)
  if checked[list] then return false end
  checked[list] = true
  local first = redis.call('LINDEX', RQ_QUEUE .. list, at_front and 1 or 0)
  return first and redis.call('EXISTS', RUN .. split_job(first)) == 0
end

-- put a job on its list: a new job at the end, a job that was claimed before at the front. RQ and idle workers are
-- notified when a list is no longer empty, or has only jobs of other programs. Busy workers poll.
local function push_job(job, list, description, now, at_front)
  describe_job(job, list, 'queued', description, now, {'enqueued_at', iso8601(now)})
  if redis.call(at_front and 'LPUSH' or 'RPUSH', RQ_QUEUE .. list, job) == 1 then
    redis.call('SADD', RQ_QUEUES, RQ_QUEUE .. list)
    redis.call('PUBLISH', READY, list)
    checked[list] = true
  elseif has_foreign_front(list, at_front) then
    redis.call('PUBLISH', READY, list)
  end
end

local function delay_job(job, list, description, now, due)
  describe_job(job, list, 'scheduled', description, now)
  redis.call('ZADD', TIMEOUTS, due, 'job:' .. job)
  redis.call('ZADD', RQ_SCHEDULED .. list, math.ceil(due / 1000), job)
end

local function grant_lease(job, list, fence, worker, now, lease_ms)
  redis.call('ZADD', LEASES, now + lease_ms, job)
  redis.call('ZADD', RQ_WIP .. list, math.floor((now + lease_ms) / 1000) + RQ_GRACE_S, job .. ':' .. fence)
  redis.call('HSET', RQ_JOB .. job, 'status', 'started', 'worker_name', worker, 'started_at', iso8601(now))
end

local function drop_lease(job, list, fence)
  redis.call('ZREM', LEASES, job)
  redis.call('ZREM', RQ_WIP .. list, job .. ':' .. fence)
end
