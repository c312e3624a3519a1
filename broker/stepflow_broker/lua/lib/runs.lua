-- runs: the life of a run and of its continuation.
-- The continuation is the run's own job. Field `continuation`: queued | leased | delayed | none at all (the run waits
-- for steps). It is queued at most once, however many steps end together.

-- A run with a parent leaves a finished event on the stream when it ends; wake_parent resolves the parent's step by it.

local LIVE_STATUS = {queued = true, running = true, waiting = true}

-- what transitions need to know of a run, read once; `list` is the one that the leased continuation came from
local function read_run(run)
  local f = redis.call('HMGET', RUN .. run, 'status', 'continuation', 'lease', 'list', 'owner', 'queue', 'app',
    'function', 'deaths', 'parent', 'created_at', 'dedupe_ms')
  return {status = f[1], continuation = f[2], lease = f[3], list = f[4], owner = f[5], queue = f[6], app = f[7],
    fn = f[8], deaths = f[9], parent = f[10], created_at = f[11], dedupe_ms = f[12], live = LIVE_STATUS[f[1] or '']}
end

-- whether this fence is the valid lease of the continuation
local function holds_run(was, fence)
  return was.continuation == 'leased' and was.lease == fence
end

-- whether this fence is the valid lease of a planned step's job, and whether the step was tried before
local function holds_step(run, key, fence)
  local state = redis.call('HMGET', STEPS .. run, key .. ':state', key .. ':lease', key .. ':attempt', key .. ':deaths')
  return state[1] == 'leased' and state[2] == fence, state[3] or state[4]
end

-- the answer to a worker that does not hold what it wants to change: NO_RUN or STALE_FENCE
local function refusal(was)
  return was.live and -2 or -1
end

local function is_live(run)
  return LIVE_STATUS[redis.call('HGET', RUN .. run, 'status') or ''] or false
end

local function create_run(run, app, fn, queue, event, now, more)
  redis.call('HSET', RUN .. run, 'app', app, 'function', fn, 'queue', queue, 'event', event, 'status', 'queued',
    'attempt', 0, 'created_at', now, 'continuation', 'queued', unpack(more or {}))
  redis.call('ZADD', LIVE, now, run)
  push_job(run, list_of(queue, false), app .. '/' .. fn, now)
end

-- queue the continuation of a run that has none
local function queue_run(run, was, now, again)
  redis.call('HSET', RUN .. run, 'continuation', 'queued', 'status', 'queued')
  push_job(run, list_of(was.queue, true), was.app .. '/' .. was.fn, now, again)
end

local function requeue_run(run, was, now, again)
  redis.call('HDEL', RUN .. run, 'lease', 'list', 'owner')
  queue_run(run, was, now, again)
end

-- record how a step ended, once -> stored (1 or 0), position
local function record_memo(run, was, key, memo)
  if was.deaths then redis.call('HDEL', RUN .. run, 'deaths') end
  if redis.call('HSETNX', MEMOS .. run, key, memo) == 1 then
    return 1, redis.call('RPUSH', ORDER .. run, key)
  end
  return 0, redis.call('LPOS', ORDER .. run, key) + 1
end

-- let the run go on after a memo: queue the continuation of one that waits; one that is queued, leased or delayed will
-- see what is new anyway, and a worker that holds it, other than the caller, is told the memo
local function memo_comes(run, was, key, position, memo, now, caller)
  if not was.continuation then
    queue_run(run, was, now)
  elseif was.continuation == 'leased' and was.owner ~= caller then
    redis.call('PUBLISH', INBOX .. was.owner, 'memo ' .. run .. ' ' .. position .. ' ' .. key .. ' ' .. memo)
  end
end

-- forget a planned step that has ended; only one that has been tried before has the later fields
local function drop_planned_step(run, key, tried)
  redis.call('HDEL', STEPS .. run, key, key .. ':state', key .. ':lease', key .. ':owner')
  if tried then
    redis.call('HDEL', STEPS .. run, key .. ':attempt', key .. ':error', key .. ':deaths', key .. ':due')
  end
end

local function drop_wait(run, key)
  redis.call('HDEL', STEPS .. run, key, key .. ':state', key .. ':child', key .. ':detail', key .. ':due')
  redis.call('DEL', TIMEOUT .. run .. ':' .. key)
  redis.call('ZREM', TIMEOUTS, 'invoke:' .. run .. ':' .. key)
end

-- drop every job and wait that planned steps still have -> the runs that were waited for
local function drop_steps(run, queue)
  local steps = redis.call('HGETALL', STEPS .. run)
  local fields, children, list = {}, {}, list_of(queue, true)
  for i = 1, #steps, 2 do fields[steps[i]] = steps[i + 1] end
  for field, state in pairs(fields) do
    local key = string.match(field, '^(%x+):state$')
    if key then
      local job = job_of(run, key)
      redis.call('DEL', RQ_JOB .. job)
      if state == 'waiting' then
        drop_wait(run, key)
        children[#children + 1] = fields[key .. ':child']
      elseif state == 'leased' then
        drop_lease(job, list, fields[key .. ':lease'])
      elseif state == 'delayed' then
        redis.call('ZREM', TIMEOUTS, 'job:' .. job)
        redis.call('ZREM', RQ_SCHEDULED .. list, job)
      elseif state == 'queued' then
        redis.call('LREM', RQ_QUEUE .. list, 1, job)
      end
    end
  end
  return children
end

local function expire_run(run, keep_ms)
  redis.call('PEXPIRE', RUN .. run, keep_ms)
  if redis.call('PEXPIRE', ORDER .. run, keep_ms) == 1 then redis.call('PEXPIRE', MEMOS .. run, keep_ms) end
end

-- end a run: no job, lease, timer or wait stays; the truth stays for the retention -> its holder, its children
local function end_run(run, was, status, field, payload, now, retention_ms)
  local queue = was.queue
  if was.continuation == 'leased' then
    drop_lease(run, was.list, was.lease)
  elseif was.continuation == 'queued' then
    for _, started in ipairs({true, false}) do
      redis.call('LREM', RQ_QUEUE .. list_of(queue, started), 1, run)
    end
  elseif was.continuation == 'delayed' then
    redis.call('ZREM', TIMEOUTS, 'job:' .. run)
    redis.call('ZREM', RQ_SCHEDULED .. list_of(queue, true), run)
  end
  local children = {}
  if redis.call('EXISTS', STEPS .. run) == 1 then
    children = drop_steps(run, queue)
    redis.call('DEL', STEPS .. run)
  end
  redis.call('HSET', RUN .. run, 'status', status, 'ended_at', now, field, payload)
  redis.call('HDEL', RUN .. run, 'continuation', 'lease', 'list', 'owner', 'deaths', 'blocked')
  local keep_ms = math.max(retention_ms, (tonumber(was.dedupe_ms) or 0) - (now - was.created_at))
  redis.call('ZREM', LIVE, run)
  redis.call('ZADD', ENDED, now + keep_ms, run)
  if status == 'failed' then
    redis.call('HSET', RQ_JOB .. run, 'origin', queue, 'status', 'failed', 'ended_at', iso8601(now), 'exc_info', payload)
    redis.call('PEXPIRE', RQ_JOB .. run, keep_ms)
    redis.call('ZADD', RQ_FAILED .. queue, math.floor((now + keep_ms) / 1000), run)
  else
    redis.call('DEL', RQ_JOB .. run)
  end
  redis.call('PUBLISH', DONE .. run, status)
  if was.parent then -- kept until its parent knows, however long no worker looks
    redis.call('HSET', RUN .. run, 'finished', redis.call('XADD', FINISHED, '*', 'run', run), 'keep_ms', keep_ms)
  else
    expire_run(run, keep_ms)
  end
  return was.owner, children
end

local function requeue_step(run, was, key, now, again)
  local list, job = list_of(was.queue, true), job_of(run, key)
  redis.call('ZREM', RQ_SCHEDULED .. list, job)
  redis.call('HDEL', STEPS .. run, key .. ':lease', key .. ':owner')
  redis.call('HSET', STEPS .. run, key .. ':state', 'queued')
  local id = redis.call('HGET', STEPS .. run, key) or key
  push_job(job, list, was.app .. '/' .. was.fn .. ': ' .. string.sub(id, 1, 100), now, again)
end
