-- cancellation: how runs that are not wanted any more end.

local function cancelled_failure(text)
  return '{"name":"RunCancelledError","message":' .. quoted(text) .. '}'
end

local function skipped_failure(reason)
  return '{"name":"RunSkippedError","message":' .. quoted('the run was skipped: ' .. reason) .. '}'
end

-- tell the parents of runs that have ended
local function tell_parents(runs, now)
  for _, run in ipairs(runs) do
    local position, memo, parent, key, was = resolve_by_child(run)
    if position ~= 0 then memo_comes(parent, was, key, position, memo, now, '') end
  end
end

-- there are messages to other partitions that nobody is about to deliver: idle workers look
local function call_messenger()
  redis.call('PUBLISH', READY, '')
end

-- a run that has bounds or rules has its function's retention; of others the worker or the producer says it
local function retention_of(run)
  return tonumber(redis.call('HGET', RUN .. run, 'retention_ms') or 86400000)
end

-- end a run that waits to start, because another takes its place
local function end_skipped(run, reason, now)
  local was = read_run(run)
  redis.call('HSET', RUN .. run, 'reason', reason)
  end_run(run, was, 'skipped', 'error', skipped_failure(reason), now, retention_of(run))
  if was.away_parent then call_messenger() end
  tell_parents({run}, now)
end

-- a run leaves the batch that it waits for, unless that has started -> the batch, if nobody is left in it
local function leave_batch(run, batch)
  if batch == run or redis.call('HEXISTS', RUN .. batch, 'started_at') == 1 then return end
  redis.call('LREM', BATCHED .. batch, 1, run)
  return redis.call('EXISTS', BATCHED .. batch) == 0 and batch or nil
end

-- cancel a live run, and the children that it and they wait for; those in other partitions by messages
local function cancel_tree(first, failure, retention_ms, with_children, now)
  local runs, n = {first}, 1
  local is_told = false
  while n <= #runs do
    local run = runs[n]
    local was = read_run(run)
    if was.live then
      local owner, children, away = end_run(run, was, 'cancelled', 'error', failure, now, retention_ms)
      if was.batch then runs[#runs + 1] = leave_batch(run, was.batch) end
      if owner then redis.call('PUBLISH', NOTIFICATIONS .. owner, 'cancel ' .. run) end
      if with_children then
        for _, child in ipairs(children) do runs[#runs + 1] = child end
        for _, child in ipairs(away) do
          redis.call('XADD', FINISHED, '*', 'cancel', child[1], 'start', child[2], 'failure', failure, 'retention_ms',
            retention_ms)
          is_told = true
        end
      end
      is_told = is_told or was.away_parent
    end
    n = n + 1
  end
  if is_told then call_messenger() end
  tell_parents(runs, now)
end

-- cancel a run that is late: `what` it did not do in time, start or finish
local function cancel_late(run, what, now)
  local within = redis.call('HGET', RUN .. run, what .. '_within')
  local text = 'the run did not ' .. what .. ' within ' .. (within or 'its time')
  cancel_tree(run, cancelled_failure(text), retention_of(run), true, now)
end
