-- runs: the life of a run and of its continuation.
-- The continuation is the run's own job. Field `continuation`: queued | leased | delayed | none at all (the run waits
-- for steps). It is queued at most once, however many steps end together.

-- A run with a parent leaves a finished event on the stream when it ends; wake_parent resolves the parent's step by it.
-- The parent of a run may live in another partition; then it is in the field `away_parent`, and the event is a message,
-- which a worker takes there.

-- make a run, and queue it: now, or, when `due` says so, later
local function create_run(run, app, fn, queue, event, now, more, gated, due)
  redis.call('HSET', RUN .. run, 'app', app, 'function', fn, 'queue', queue, 'event', event, 'attempt', 0,
    'created_at', now, 'status', due and 'waiting' or 'queued', 'continuation', due and 'delayed' or 'queued',
    unpack(more or {}))
  redis.call('ZADD', LIVE, now, run)
  local list, name = list_of(queue, false), app .. '/' .. fn
  if due then
    redis.call('HSET', RUN .. run, 'due', due)
    delay_job(run, list, name, now, due)
  elseif gated then
    redis.call('HSET', RUN .. run, 'continuation', admit(run, run, read_run(run), list, name, now))
  else
    push_job(run, list, name, now)
  end
end

-- queue the continuation of a run that has none
local function queue_run(run, was, now, again)
  local state = admit(run, run, was, list_of(was.queue, was.started_at), was.app .. '/' .. was.fn, now, again)
  redis.call('HSET', RUN .. run, 'continuation', state, 'status', 'queued')
end

-- the lease of a job is over: its slots are free
local function end_lease(job, was, list, fence, now)
  drop_lease(job, list, fence)
  if was.gates then free_slots(job, was, now) end
end

local function requeue_run(run, was, now, again)
  redis.call('HDEL', RUN .. run, 'lease', 'list', 'owner')
  queue_run(run, was, now, again)
end

-- record how a step ended, once -> stored (1 or 0), position
local function record_memo(run, was, key, memo)
  if was.deaths then redis.call('HDEL', RUN .. run, 'deaths') end
  if redis.call('HSETNX', MEMOS .. run, key, memo) == 1 then
    return 1, redis.call('RPUSH', MEMO_ORDER .. run, key)
  end
  return 0, redis.call('LPOS', MEMO_ORDER .. run, key) + 1
end

-- let the run go on after a memo: queue the continuation of one that waits; one that is queued, leased or delayed will
-- see what is new anyway, and a worker that holds it, other than the caller, is told the memo
local function memo_comes(run, was, key, position, memo, now, caller)
  if not was.continuation then
    queue_run(run, was, now)
  elseif was.continuation == 'leased' and was.owner ~= caller then
    redis.call('PUBLISH', NOTIFICATIONS .. was.owner, 'memo ' .. run .. ' ' .. position .. ' ' .. key .. ' ' .. memo)
  end
end

-- forget a planned step that has ended; only one that has been tried before has the later fields
local function drop_planned_step(run, key, tried)
  redis.call('HDEL', STEPS .. run, key, key .. ':state', key .. ':lease', key .. ':owner')
  if tried then
    redis.call('HDEL', STEPS .. run, key .. ':attempt', key .. ':error', key .. ':deaths', key .. ':due')
  end
end

-- drop every job and wait that planned steps still have -> the runs that were waited for here, the jobs, and the runs
-- that were waited for in other partitions, each with the message that has it started
local function drop_steps(run, was)
  local steps = redis.call('HGETALL', STEPS .. run)
  local fields, children, jobs, away, list = {}, {}, {}, {}, list_of(was.queue, true)
  for i = 1, #steps, 2 do fields[steps[i]] = steps[i + 1] end
  for field, state in pairs(fields) do
    local key = string.match(field, '^(%x+):state$')
    if key then
      local job = job_of(run, key)
      redis.call('DEL', RQ_JOB .. job)
      jobs[#jobs + 1] = job
      if state == 'waiting' then
        drop_wait(run, key, fields[key .. ':index'])
        local child, message = fields[key .. ':child'], fields[key .. ':away']
        if message then away[#away + 1] = {child, message} else children[#children + 1] = child end
      elseif state == 'leased' then
        drop_lease(job, list, fields[key .. ':lease'])
      elseif state == 'delayed' then
        redis.call('ZREM', TIMEOUTS, 'job:' .. job)
        redis.call('ZREM', RQ_SCHEDULED .. list, job)
      elseif state == 'queued' then
        redis.call('LREM', RQ_QUEUE .. list, 1, job)
      elseif state == 'gated' then
        leave_lines(job, was)
      end
    end
  end
  return children, jobs, away
end

local function expire_run(run, keep_ms)
  redis.call('PEXPIRE', RUN .. run, keep_ms)
  if redis.call('PEXPIRE', MEMO_ORDER .. run, keep_ms) == 1 then redis.call('PEXPIRE', MEMOS .. run, keep_ms) end
end

-- end a run: no job, lease, timer or wait stays; the truth stays for the retention -> its holder, its children here and
-- in other partitions
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
    redis.call('ZREM', RQ_SCHEDULED .. list_of(queue, was.started_at), run)
  elseif was.continuation == 'gated' then
    leave_lines(run, was)
  end
  if was.singleton and redis.call('GET', SINGLETON .. was.singleton) == run then
    redis.call('DEL', SINGLETON .. was.singleton)
  end
  if was.bounds then drop_bounds(run, was.bounds) end
  local children, jobs, away = {}, {}, {}
  if redis.call('EXISTS', STEPS .. run) == 1 then
    children, jobs, away = drop_steps(run, was)
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
  redis.call('PUBLISH', RUN_ENDED .. run, status)
  local kind = was.parent and 'run' or was.away_parent and 'away' or was.batch == run and 'batch'
  if kind then -- kept until its parent, or its batch, knows, however long no worker looks
    local entry = redis.call('XADD', FINISHED, '*', kind, run)
    redis.call('HSET', RUN .. run, 'finished', entry, 'keep_ms', keep_ms)
  else
    expire_run(run, keep_ms)
  end
  if was.gates then
    jobs[#jobs + 1] = run
    for _, job in ipairs(jobs) do free_slots(job, was, now) end
  end
  return was.owner, children, away
end

local function requeue_step(run, was, key, now, again)
  local list, job = list_of(was.queue, true), job_of(run, key)
  redis.call('ZREM', RQ_SCHEDULED .. list, job)
  redis.call('HDEL', STEPS .. run, key .. ':lease', key .. ':owner')
  local id = redis.call('HGET', STEPS .. run, key) or key
  local description = was.app .. '/' .. was.fn .. ': ' .. string.sub(id, 1, 100)
  redis.call('HSET', STEPS .. run, key .. ':state', admit(job, run, was, list, description, now, again))
end
