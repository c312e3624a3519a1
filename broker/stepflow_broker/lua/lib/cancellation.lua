-- cancellation: cancel or skip a run, and tell the runs and workers that depend on it.

local function cancelled_failure(text)
  return '{"name":"RunCancelledError","message":' .. json_string(text) .. '}'
end

local function skipped_failure(reason)
  return '{"name":"RunSkippedError","message":' .. json_string('the run was skipped: ' .. reason) .. '}'
end

-- wake idle workers to handle finished events, and to deliver messages to other partitions
local function notify_outbox()
  redis.call('PUBLISH', READY, '')
end

-- resolve the parents' steps of runs that have ended. A worker ends the items of maps, by their finished events.
local function wake_parents(runs, now)
  for _, run in ipairs(runs) do
    local position, _, parent, key, was = resolve_by_child(run)
    if not position then
      notify_outbox()
    elseif position ~= 0 then
      wake_run(parent, was, key, position, now, '')
    end
  end
end

-- the retention of a run. Only runs with flow control or cancellation rules store it: for others the caller passes it.
local function retention_of(run)
  return tonumber(redis.call('HGET', RUN .. run, 'retention_ms') or 86400000)
end

-- skip a run that has not started, because another run replaces it
local function skip_run(run, reason, now)
  local was = read_run(run)
  redis.call('HSET', RUN .. run, 'reason', reason)
  end_run(run, was, 'skipped', 'error', skipped_failure(reason), now, retention_of(run))
  if was.remote_parent then notify_outbox() end
  wake_parents({run}, now)
end

-- remove a run from its batch, unless the batch has started -> the batch if it is empty now
local function leave_batch(run, batch)
  if batch == run or redis.call('HEXISTS', RUN .. batch, 'started_at') == 1 then return end
  redis.call('LREM', BATCHED .. batch, 1, run)
  return redis.call('EXISTS', BATCHED .. batch) == 0 and batch or nil
end

-- add the message that cancels a child in another partition. The caller calls notify_outbox.
local function send_cancel(child, start_message, failure, retention_ms)
  redis.call('XADD', FINISHED, '*', 'cancel', child, 'start_message', start_message, 'failure', failure, 'retention_ms',
    retention_ms)
end

-- cancel a live run, and the children that it and they wait for. Children in other partitions are cancelled by
-- messages. A run with something to undo ends when that is done. A run that undoes already is left alone.
local function cancel_tree(first, failure, retention_ms, with_children, now)
  local runs, n = {first}, 1
  local has_messages = false
  while n <= #runs do
    local run = runs[n]
    local was = read_run(run)
    local plan = was.live and undo_plan(run)
    if was.live and plan ~= 'begun' then
      local owner, children, remote
      if plan == 'due' then
        owner, children, remote = begin_undo(run, was, 'cancelled', failure, now)
      else
        owner, children, remote = end_run(run, was, 'cancelled', 'error', failure, now, retention_ms)
      end
      if was.batch then runs[#runs + 1] = leave_batch(run, was.batch) end
      if owner then redis.call('PUBLISH', NOTIFICATIONS .. owner, 'cancel ' .. run) end
      if with_children then
        for _, child in ipairs(children) do runs[#runs + 1] = child end
        for _, child in ipairs(remote) do
          send_cancel(child.run, child.start_message, failure, retention_ms)
          has_messages = true
        end
      end
      has_messages = has_messages or was.remote_parent
    end
    n = n + 1
  end
  if has_messages then notify_outbox() end
  wake_parents(runs, now)
end

-- cancel a child that has taken longer than its parent allows; `message` has started it in another partition
local function cancel_late_child(child, message, now)
  local failure, retention_ms = cancelled_failure('the run did not end in the time that its parent allows'), retention_of(child)
  if message then
    send_cancel(child, message, failure, retention_ms)
    notify_outbox()
  else
    cancel_tree(child, failure, retention_ms, true, now)
  end
end

-- cancel a run that did not start, or finish, in time; `what` is start or finish
local function cancel_overdue(run, what, now)
  local within = redis.call('HGET', RUN .. run, what .. '_within')
  local text = 'the run did not ' .. what .. ' within ' .. (within or 'its time')
  cancel_tree(run, cancelled_failure(text), retention_of(run), true, now)
end
