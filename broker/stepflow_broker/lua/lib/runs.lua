-- runs: the life of a run and of its continuation.
-- The continuation is the run's own job. Field `continuation`: queued | leased | delayed | none at all (the run waits
-- for steps). It is queued at most once, however many steps end together.

local LIVE_STATUS = {queued = true, running = true, waiting = true}

local function is_live(run)
  return LIVE_STATUS[redis.call('HGET', RUN .. run, 'status') or ''] or false
end

local function create_run(run, app, fn, queue, event, now, more)
  redis.call('HSET', RUN .. run, 'app', app, 'function', fn, 'queue', queue, 'event', event, 'status', 'queued',
    'attempt', 0, 'created_at', now, 'continuation', 'queued', unpack(more or {}))
  redis.call('ZADD', LIVE, now, run)
  push_job(run, list_of(queue, false), app .. '/' .. fn, now)
end

-- queue the continuation of a run that waits; one that is queued, leased or delayed will see what is new anyway
local function wake_run(run, now)
  local state = redis.call('HMGET', RUN .. run, 'continuation', 'queue', 'app', 'function', 'owner')
  if state[1] then return state[1], state[5] end
  redis.call('HSET', RUN .. run, 'continuation', 'queued', 'status', 'queued')
  push_job(run, list_of(state[2], true), state[3] .. '/' .. state[4], now)
  return 'queued', false
end

local function requeue_run(run, now)
  redis.call('HDEL', RUN .. run, 'continuation', 'lease', 'owner')
  return wake_run(run, now)
end

-- drop every job that planned steps still have
local function drop_planned(run, queue)
  local steps = redis.call('HGETALL', STEPS .. run)
  local fields = {}
  for i = 1, #steps, 2 do fields[steps[i]] = steps[i + 1] end
  for field, state in pairs(fields) do
    local key = string.match(field, '^(%x+):state$')
    if key then
      local job = job_of(run, key)
      drop_job(job, fields[key .. ':lease'] or '')
      if state == 'delayed' then
        redis.call('ZREM', TIMEOUTS, 'job:' .. job)
        redis.call('ZREM', RQ_SCHEDULED .. list_of(queue, true), job)
      elseif state == 'queued' then
        redis.call('LREM', RQ_QUEUE .. list_of(queue, true), 1, job)
      end
    end
  end
end

-- end a run: no job, lease or timer stays; the truth stays for the retention
local function end_run(run, status, field, payload, now, retention_ms)
  local was = redis.call('HMGET', RUN .. run, 'continuation', 'lease', 'queue', 'created_at', 'dedupe_ms', 'owner')
  local continuation, queue = was[1], was[3]
  if continuation == 'queued' then
    for _, started in ipairs({true, false}) do
      redis.call('LREM', RQ_QUEUE .. list_of(queue, started), 1, run)
    end
  elseif continuation == 'delayed' then
    redis.call('ZREM', TIMEOUTS, 'job:' .. run)
    redis.call('ZREM', RQ_SCHEDULED .. list_of(queue, true), run)
  end
  if continuation == 'leased' then drop_lease(run, was[2]) end
  if redis.call('EXISTS', STEPS .. run) == 1 then drop_planned(run, queue) end
  redis.call('HSET', RUN .. run, 'status', status, 'ended_at', now, field, payload)
  redis.call('HDEL', RUN .. run, 'continuation', 'lease', 'owner', 'deaths', 'blocked')
  local keep_ms = math.max(retention_ms, (tonumber(was[5]) or 0) - (now - was[4]))
  redis.call('PEXPIRE', RUN .. run, keep_ms)
  redis.call('PEXPIRE', MEMOS .. run, keep_ms)
  redis.call('PEXPIRE', ORDER .. run, keep_ms)
  redis.call('DEL', STEPS .. run)
  redis.call('ZREM', LIVE, run)
  redis.call('ZADD', ENDED, now + keep_ms, run)
  if status == 'failed' then
    redis.call('HSET', RQ_JOB .. run, 'status', 'failed', 'ended_at', iso8601(now), 'exc_info', payload)
    redis.call('PEXPIRE', RQ_JOB .. run, keep_ms)
    redis.call('ZADD', RQ_FAILED .. queue, math.floor((now + keep_ms) / 1000), run)
  else
    redis.call('DEL', RQ_JOB .. run)
  end
  redis.call('PUBLISH', DONE .. run, status)
  return was[6]
end

local function requeue_step(run, key, now)
  local state = redis.call('HMGET', RUN .. run, 'queue', 'app', 'function')
  local list, job = list_of(state[1], true), job_of(run, key)
  redis.call('ZREM', RQ_SCHEDULED .. list, job)
  redis.call('HDEL', STEPS .. run, key .. ':lease', key .. ':owner')
  redis.call('HSET', STEPS .. run, key .. ':state', 'queued')
  local id = redis.call('HGET', STEPS .. run, key) or key
  push_job(job, list, state[2] .. '/' .. state[3] .. ': ' .. string.sub(id, 1, 100), now)
end
