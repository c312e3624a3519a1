-- runs: the life of a run and of its continuation.
-- The continuation is the run's own job, which replays its code. The field `continuation` has its state. A parked run,
-- which waits for its steps, has no such field. The continuation is queued at most once, however many steps end at the
-- same time.

-- A run with a parent adds a finished event to the stream when it ends, and wake_parent resolves the parent's step by
-- it. If the parent lives in another partition, it is in the field `remote_parent`, and the finished event is a message
-- that a worker delivers to that partition.

-- store a new live run
local function store_run(run, app, function_id, queue, event, now, status, continuation, more)
  redis.call('HSET', RUN .. run, 'app', app, 'function', function_id, 'queue', queue, 'event', event, 'attempt', 0,
    'created_at', now, 'status', status, 'continuation', continuation, unpack(more))
  redis.call('ZADD', LIVE, now, run)
  index_start(run, app .. '/' .. function_id, now)
end

-- create a run, and queue its job
local function create_queued_run(run, app, function_id, queue, event, now, more)
  store_run(run, app, function_id, queue, event, now, 'queued', 'queued', more)
  push_job(run, list_of(queue, false), app .. '/' .. function_id, now)
end

-- create a run and queue it, or delay it until `due`. `may_wait` says that its job may need to enter a wait list.
local function create_run(run, app, function_id, queue, event, now, more, may_wait, due)
  if not (due or may_wait) then return create_queued_run(run, app, function_id, queue, event, now, more) end
  store_run(run, app, function_id, queue, event, now, due and 'waiting' or 'queued', due and 'delayed' or 'queued', more)
  local list, name = list_of(queue, false), app .. '/' .. function_id
  if due then
    redis.call('HSET', RUN .. run, 'due', due)
    delay_job(run, list, name, now, due)
  else
    redis.call('HSET', RUN .. run, 'continuation', enqueue_or_wait(run, run, read_run(run), list, name, now))
  end
end

-- queue the continuation of a run that has none
local function queue_run(run, was, now, at_front)
  local list, name = list_of(was.queue, was.started_at), was.app .. '/' .. was.function_id
  local state = enqueue_or_wait(run, run, was, list, name, now, at_front)
  redis.call('HSET', RUN .. run, 'continuation', state, 'status', 'queued')
end

-- end the lease of a job, and free its concurrency slots
local function end_lease(job, was, list, fence, now)
  drop_lease(job, list, fence)
  if was.concurrency then release_slots(job, was, now) end
end

local function requeue_run(run, was, now, at_front)
  redis.call('HDEL', RUN .. run, 'lease', 'list', 'owner', 'leased_at', 'executing')
  queue_run(run, was, now, at_front)
end

-- record the memo of a step, once -> stored (1 or 0), position
local function record_memo(run, was, key, memo)
  if was.deaths then redis.call('HDEL', RUN .. run, 'deaths') end
  if redis.call('HSETNX', MEMOS .. run, key, memo) == 1 then
    return 1, redis.call('RPUSH', MEMO_ORDER .. run, key)
  end
  return 0, redis.call('LPOS', MEMO_ORDER .. run, key) + 1
end

-- notify the worker that has the lease of a continuation, unless it is the caller, that there is a memo. The notification
-- has no data: channels know no databases, so a message may come from another database.
local function notify_holder(run, was, key, position, caller)
  if was.continuation == 'leased' and was.owner ~= caller then
    redis.call('PUBLISH', NOTIFICATIONS .. was.owner, 'memo ' .. run .. ' ' .. position .. ' ' .. key)
  end
end

-- continue a run after a new memo: queue the continuation of a parked run. A continuation in another state reads the
-- memo when it runs next.
local function wake_run(run, was, key, position, now, caller)
  if not was.continuation then return queue_run(run, was, now) end
  notify_holder(run, was, key, position, caller)
end

-- delete the fields of a planned step. Only a step that was attempted before, or a map, has the later fields.
local function drop_planned_step(run, was, key, tried)
  redis.call('HDEL', STEPS .. run, key, key .. ':state', key .. ':lease', key .. ':owner', key .. ':leased_at')
  if tried then
    redis.call('HDEL', STEPS .. run, key .. ':attempt', key .. ':error', key .. ':deaths', key .. ':due', key .. ':deferred',
      key .. ':left_by', key .. ':began', key .. ':first_failed_at')
    if redis.call('HDEL', STEPS .. run, key .. ':count') == 1 then
      redis.call('HDEL', STEPS .. run, key .. ':detail', key .. ':digest', key .. ':at_once', key .. ':tolerated',
        key .. ':room', key .. ':next', key .. ':open', key .. ':failed', key .. ':bytes')
      redis.call('UNLINK', ITEMS .. run .. ':' .. key)
    end
  end
  if was.step_queues then redis.call('HDEL', STEPS .. run, key .. ':queue') end
end

-- a deferral of a job that a worker cannot execute -> how many there were in a row, and the delay, which doubles each time
-- up to `longest_ms`. 0: it is no such deferral. If the last one was due long ago, the job was executed since.
local function count_deferral(count, last_due, now, delay_ms, longest_ms)
  if longest_ms == 0 then return 0, delay_ms end
  if now - tonumber(last_due or 0) > longest_ms then count = 0 end
  count = tonumber(count or 0) + 1
  return count, math.min(delay_ms * 2 ^ math.min(count - 1, 40), longest_ms)
end

-- delete the job or the wait of a step -> the child that it waited for, and the message that starts a remote child. A
-- child that is left when its parent ends is not one of them.
-- `step` has the fields of the step, by their names without the key. The caller deletes those of a job.
local function drop_step(run, was, key, step)
  local job, list = job_of(run, key), list_of_step(run, was, key)
  redis.call('DEL', RQ_JOB .. job)
  if step.state == 'waiting' then
    drop_wait(run, key, step.index)
    if step.close ~= 'leave' then return step.child, step.message end
  elseif step.state == 'leased' then
    drop_lease(job, list, step.lease)
  elseif step.state == 'delayed' then
    redis.call('ZREM', TIMEOUTS, 'job:' .. job)
    redis.call('ZREM', RQ_SCHEDULED .. list, job)
  elseif step.state == 'queued' then
    redis.call('LREM', RQ_QUEUE .. list, 1, job)
  elseif step.state == 'waitlisted' then
    leave_wait_lists(job, was)
  end
end

-- the hash of the steps of a run, by field
local function read_steps(run)
  local steps, fields = redis.call('HGETALL', STEPS .. run), {}
  for i = 1, #steps, 2 do fields[steps[i]] = steps[i + 1] end
  return fields
end

-- delete every job and wait of the steps -> the children in this partition that steps waited for, the jobs, and the
-- remote children as {run, start_message}
local function drop_steps(run, was, fields)
  local children, jobs, remote, steps = {}, {}, {}, {}
  for field, value in pairs(fields) do
    local key, name = string.match(field, '^(%x+):(%a+)$')
    if key then
      steps[key] = steps[key] or {}
      steps[key][name] = value
    end
  end
  for key, step in pairs(steps) do
    if step.count then redis.call('UNLINK', ITEMS .. run .. ':' .. key) end
    if step.state then
      jobs[#jobs + 1] = job_of(run, key)
      local child, message = drop_step(run, was, key, step)
      if message then
        remote[#remote + 1] = {run = child, start_message = message}
      else
        children[#children + 1] = child
      end
    end
  end
  return children, jobs, remote
end

local function expire_run(run, keep_ms)
  redis.call('PEXPIRE', RUN .. run, keep_ms)
  redis.call('PEXPIRE', ATTEMPTS .. run, keep_ms)
  if redis.call('PEXPIRE', MEMO_ORDER .. run, keep_ms) == 1 then redis.call('PEXPIRE', MEMOS .. run, keep_ms) end
end

-- the signals of a run that no wait has received, and the ids of all, are kept as long as the ended run
local function expire_signals(run, keep_ms)
  redis.call('PEXPIRE', SIGNALS .. run, keep_ms)
  redis.call('PEXPIRE', SIGNAL_IDS .. run, keep_ms)
end

-- end a run that has no jobs, timers and waits any more: keep its hash, memos and attempts for the retention, or for that
-- of the run, if it was started with options
local function close_run(run, was, status, field, payload, now, retention_ms)
  -- delete before adding, so that the hash rarely exceeds 16 fields: its table would double, and stay so
  redis.call('HDEL', RUN .. run, 'continuation', 'lease', 'list', 'owner', 'leased_at', 'executing', 'deaths', 'blocked',
    'deferred', 'left_by')
  local more = {}
  if was.owner then more = {'ended_by', was.owner} end
  redis.call('HSET', RUN .. run, 'status', status, 'ended_at', now, field, payload, unpack(more))
  if was.options then retention_ms = tonumber(redis.call('HGET', RUN .. run, 'retention_ms')) or retention_ms end
  local keep_ms = math.max(retention_ms, (tonumber(was.dedupe_ms) or 0) - math.max(0, now - was.created_at))
  if was.signals then expire_signals(run, keep_ms) end
  redis.call('ZREM', LIVE, run)
  local name = (was.app or '') .. '/' .. (was.function_id or '')
  index_end(run, name, status, now, keep_ms)
  if status == 'failed' then
    if was.batch and was.batch ~= run then -- it had no job, and a requeue needs a whole one
      describe_job(run, was.queue, 'failed', name, now)
    end
    redis.call('HSET', RQ_JOB .. run, 'origin', was.queue, 'status', 'failed', 'ended_at', iso8601(now), 'exc_info', payload)
    redis.call('PEXPIRE', RQ_JOB .. run, keep_ms)
    redis.call('ZADD', RQ_FAILED .. was.queue, math.floor((now + keep_ms) / 1000), run)
  else
    redis.call('DEL', RQ_JOB .. run)
  end
  redis.call('PUBLISH', RUN_ENDED .. run, status)
  local kind = was.parent and 'run' or was.remote_parent and 'remote_run' or was.batch == run and 'batch'
  if kind then -- no expiry until its parent, or the members of its batch, know that it has ended
    local entry = redis.call('XADD', FINISHED, '*', kind, run)
    redis.call('HSET', RUN .. run, 'finished', entry, 'keep_ms', keep_ms)
  else
    expire_run(run, keep_ms)
  end
end

-- take the continuation of a run from its worker, its queue, its timer or its wait lists
local function drop_continuation(run, was)
  if was.continuation == 'leased' then
    drop_lease(run, was.list, was.lease)
  elseif was.continuation == 'queued' then
    for _, started in ipairs({true, false}) do
      redis.call('LREM', RQ_QUEUE .. list_of(was.queue, started), 1, run)
    end
  elseif was.continuation == 'delayed' then
    redis.call('ZREM', TIMEOUTS, 'job:' .. run)
    redis.call('ZREM', RQ_SCHEDULED .. list_of(was.queue, was.started_at), run)
  elseif was.continuation == 'waitlisted' then
    leave_wait_lists(run, was)
  end
end

-- delete the jobs, leases, timers and waits of a run, and keep what had not ended in its history
-- -> the children that it waited for, its jobs, and the children in other partitions
local function drop_work(run, was, has_completed, now)
  drop_continuation(run, was)
  if was.cancel_events then drop_cancellation(run, was.cancel_events) end
  local children, jobs, remote, fields = {}, {}, {}, read_steps(run)
  if next(fields) or not has_completed then keep_unfinished(run, was, fields, now, has_completed) end
  if next(fields) then
    children, jobs, remote = drop_steps(run, was, fields)
    redis.call('DEL', STEPS .. run)
  end
  jobs[#jobs + 1] = run
  return children, jobs, remote
end

local function release_all_slots(jobs, was, now, has_ended)
  if not was.concurrency then return end
  for _, job in ipairs(jobs) do release_slots(job, was, now, has_ended) end
end

-- send the event that reports a cancelled run. The event of the run is in it as it is stored: its data stays encrypted.
local function report_cancelled(run, was, failure, now)
  local id, event = run .. '-cancelled', redis.call('HGET', RUN .. run, 'event') or 'null'
  local name = json_string((was.app or '') .. '/' .. (was.function_id or ''))
  local data = '{"function":' .. name .. ',"run_id":' .. json_string(run) .. ',"error":' .. failure .. ',"event":' .. event .. '}'
  local text = '{"name":"' .. CANCELLED_EVENT .. '","id":' .. json_string(id) .. ',"ts":' .. now .. ',"data":' .. data .. '}'
  redis.call('XADD', EVENTS, '*', 'event', text, 'id', id, 'dedupe', 0)
end

-- end a run: delete its jobs, leases, timers and waits, and keep its hash, memos and attempts for the retention -> the
-- worker that had its lease, and the children that it waited for, in this partition and in others
local function end_run(run, was, status, field, payload, now, retention_ms)
  if was.singleton and redis.call('GET', SINGLETON .. was.singleton) == run then
    redis.call('DEL', SINGLETON .. was.singleton)
  end
  local children, jobs, remote = drop_work(run, was, status == 'completed', now)
  if status == 'cancelled' then report_cancelled(run, was, payload, now) end
  close_run(run, was, status, field, payload, now, retention_ms)
  release_all_slots(jobs, was, now, true)
  return was.owner, children, remote
end

local function requeue_step(run, was, key, now, at_front)
  local list, job = list_of_step(run, was, key), job_of(run, key)
  redis.call('ZREM', RQ_SCHEDULED .. list, job)
  redis.call('HDEL', STEPS .. run, key .. ':lease', key .. ':owner', key .. ':leased_at')
  local id = redis.call('HGET', STEPS .. run, key) or key
  local description = was.app .. '/' .. was.function_id .. ': ' .. string.sub(id, 1, 100)
  redis.call('HSET', STEPS .. run, key .. ':state', enqueue_or_wait(job, run, was, list, description, now, at_front))
end
