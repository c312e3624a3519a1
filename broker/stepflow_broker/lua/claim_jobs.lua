-- claim_jobs: lease ready jobs to a worker, those of started runs before those of new ones.
-- A job whose run or step no longer wants it is dropped from its list. Nothing is claimed while RQ is suspended.
-- USES     clock jobs state gates
-- KEYS     1 suspended
-- ARGV     1 now_ms  2 worker  3 limit  4 lease_ms  5.. lists, in order
-- MOVES    queued -> running
-- RETURNS  list of jobs, 0 SUSPENDED
local now, worker, limit, lease_ms = clock(ARGV[1]), ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end

-- whether a job's slots, which may have lapsed on the queue, let it be executed; if not, it stands in line again
local function may_pass(job, run, key)
  local was = read_run(run)
  local gate = take_slots(job, was, now, now + lease_ms)
  if not gate then return true end
  redis.call('ZADD', LINE .. gate.name, place_of(run, was), job)
  redis.call('HSET', RQ_JOB .. job, 'status', 'deferred')
  redis.call('HSET', key == '' and RUN .. run or STEPS .. run, key == '' and 'continuation' or key .. ':state', 'gated')
  return false
end

-- the run starts now -> its event
local function first_event(run)
  local first = redis.call('HMGET', RUN .. run, 'event', 'bounds', 'finish_ms')
  if first[2] then redis.call('ZREM', TIMEOUTS, 'start:' .. run) end
  if first[3] then redis.call('ZADD', TIMEOUTS, now + first[3], 'finish:' .. run) end
  return first[1]
end

local function claim_continuation(job, list)
  local run = redis.call('HMGET', RUN .. job, 'continuation', 'app', 'function', 'attempt', 'deaths', 'parent', 'depth',
    'fence', 'started_at', 'gates')
  if run[1] ~= 'queued' then return false end
  if run[10] and not may_pass(job, job, '') then return false end
  local fence, event = tonumber(run[8] or 0) + 1, false
  redis.call('HSET', RUN .. job, 'continuation', 'leased', 'lease', fence, 'fence', fence, 'list', list,
    'owner', worker, 'status', 'running', 'started_at', run[9] or now)
  if not run[9] then event = first_event(job) end
  local applied = redis.call('LLEN', ORDER .. job)
  grant_lease(job, list, fence, worker, now, lease_ms)
  local planned = redis.call('HLEN', STEPS .. job)
  return {job, list, fence, run[2], run[3], tonumber(run[4]), applied, tonumber(run[5] or 0), event, '', 0, planned,
    run[6], tonumber(run[7] or 0)}
end

local function claim_step(job, list, run, key)
  local step = redis.call('HMGET', STEPS .. run, key .. ':state', key, key .. ':attempt', key .. ':deaths')
  if step[1] ~= 'queued' then return false end
  local owner = redis.call('HMGET', RUN .. run, 'app', 'function', 'attempt', 'gates')
  if owner[4] and not may_pass(job, run, key) then return false end
  local fence = redis.call('HINCRBY', RUN .. run, 'fence', 1)
  redis.call('HSET', STEPS .. run, key .. ':state', 'leased', key .. ':lease', fence, key .. ':owner', worker)
  local applied = redis.call('LLEN', ORDER .. run)
  grant_lease(job, list, fence, worker, now, lease_ms)
  return {job, list, fence, owner[1], owner[2], tonumber(owner[3]), applied, tonumber(step[4] or 0), false, step[2],
    tonumber(step[3] or 0), 0, false, 0}
end

local claimed = {}
for i = 5, #ARGV do
  local list = ARGV[i]
  while #claimed < limit do
    local job = redis.call('LPOP', RQ_QUEUE .. list)
    if not job then break end
    local run, key = split_job(job)
    local lease = key == '' and claim_continuation(job, list) or key ~= '' and claim_step(job, list, run, key)
    if lease then
      claimed[#claimed + 1] = lease
    end
  end
end
return claimed
