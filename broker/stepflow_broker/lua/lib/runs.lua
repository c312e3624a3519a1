-- runs: the life of a run and of its continuation.
-- The continuation is the run's own job. Field `continuation`: queued | leased | delayed | none at all (the run waits
-- for steps). It is queued at most once, however many steps end together.

-- A run with a parent leaves a finished event on the stream when it ends; wake_parent resolves the parent's step by it.

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
local function wake_run(run, now, again)
  local state = redis.call('HMGET', RUN .. run, 'continuation', 'queue', 'app', 'function', 'owner')
  if state[1] then return state[1], state[5] end
  redis.call('HSET', RUN .. run, 'continuation', 'queued', 'status', 'queued')
  push_job(run, list_of(state[2], true), state[3] .. '/' .. state[4], now, again)
  return 'queued', false
end

local function requeue_run(run, now, again)
  redis.call('HDEL', RUN .. run, 'continuation', 'lease', 'owner')
  return wake_run(run, now, again)
end

-- record how a step ended, once, and forget what was planned of it -> stored (1 or 0), position
local function record_memo(run, key, memo)
  redis.call('HDEL', STEPS .. run, key, key .. ':state', key .. ':lease', key .. ':owner', key .. ':attempt',
    key .. ':error', key .. ':deaths', key .. ':due', key .. ':child', key .. ':detail')
  redis.call('HDEL', RUN .. run, 'deaths')
  if redis.call('HSETNX', MEMOS .. run, key, memo) == 1 then
    return 1, redis.call('RPUSH', ORDER .. run, key)
  end
  return 0, redis.call('LPOS', ORDER .. run, key) + 1
end

-- let the run go on after a memo; a worker that holds it, other than the caller, is told the memo
local function memo_comes(run, key, position, memo, now, caller)
  local state, owner = wake_run(run, now)
  if state == 'leased' and owner and owner ~= caller then
    redis.call('PUBLISH', INBOX .. owner, 'memo ' .. run .. ' ' .. position .. ' ' .. key .. ' ' .. memo)
  end
end

local function drop_wait(run, key)
  redis.call('DEL', TIMEOUT .. run .. ':' .. key)
  redis.call('ZREM', TIMEOUTS, 'invoke:' .. run .. ':' .. key)
end

-- drop every job and wait that planned steps still have -> the runs that were waited for
local function drop_planned(run, queue)
  local steps = redis.call('HGETALL', STEPS .. run)
  local fields, children = {}, {}
  for i = 1, #steps, 2 do fields[steps[i]] = steps[i + 1] end
  for field, state in pairs(fields) do
    local key = string.match(field, '^(%x+):state$')
    if key then
      local job = job_of(run, key)
      drop_job(job, fields[key .. ':lease'] or '')
      if state == 'waiting' then
        drop_wait(run, key)
        children[#children + 1] = fields[key .. ':child']
      elseif state == 'delayed' then
        redis.call('ZREM', TIMEOUTS, 'job:' .. job)
        redis.call('ZREM', RQ_SCHEDULED .. list_of(queue, true), job)
      elseif state == 'queued' then
        redis.call('LREM', RQ_QUEUE .. list_of(queue, true), 1, job)
      end
    end
  end
  return children
end

local function expire_run(run, keep_ms)
  redis.call('PEXPIRE', RUN .. run, keep_ms)
  redis.call('PEXPIRE', MEMOS .. run, keep_ms)
  redis.call('PEXPIRE', ORDER .. run, keep_ms)
end

-- end a run: no job, lease, timer or wait stays; the truth stays for the retention -> its holder, its children
local function end_run(run, status, field, payload, now, retention_ms)
  local was = redis.call('HMGET', RUN .. run, 'continuation', 'lease', 'queue', 'created_at', 'dedupe_ms', 'owner',
    'parent')
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
  local children = redis.call('EXISTS', STEPS .. run) == 1 and drop_planned(run, queue) or {}
  redis.call('HSET', RUN .. run, 'status', status, 'ended_at', now, field, payload)
  redis.call('HDEL', RUN .. run, 'continuation', 'lease', 'owner', 'deaths', 'blocked')
  local keep_ms = math.max(retention_ms, (tonumber(was[5]) or 0) - (now - was[4]))
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
  if was[7] then -- kept until its parent knows, however long no worker looks
    redis.call('HSET', RUN .. run, 'finished', redis.call('XADD', FINISHED, '*', 'run', run), 'keep_ms', keep_ms)
  else
    expire_run(run, keep_ms)
  end
  return was[6], children
end

local function requeue_step(run, key, now, again)
  local state = redis.call('HMGET', RUN .. run, 'queue', 'app', 'function')
  local list, job = list_of(state[1], true), job_of(run, key)
  redis.call('ZREM', RQ_SCHEDULED .. list, job)
  redis.call('HDEL', STEPS .. run, key .. ':lease', key .. ':owner')
  redis.call('HSET', STEPS .. run, key .. ':state', 'queued')
  local id = redis.call('HGET', STEPS .. run, key) or key
  push_job(job, list, state[2] .. '/' .. state[3] .. ': ' .. string.sub(id, 1, 100), now, again)
end
