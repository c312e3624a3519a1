-- cancels: how runs that are not wanted any more end.

local function skipped_failure(reason)
  return '{"name":"RunSkippedError","message":"the run was skipped: ' .. reason .. '"}'
end

-- tell the parents of runs that have ended
local function tell_parents(runs, now)
  for _, run in ipairs(runs) do
    local position, memo, parent, key, was = resolve_by_child(run)
    if position ~= 0 then memo_comes(parent, was, key, position, memo, now, '') end
  end
end

-- end a run that waits to start, because another takes its place
local function end_skipped(run, reason, now)
  local was = read_run(run)
  redis.call('HSET', RUN .. run, 'reason', reason)
  local retention_ms = tonumber(redis.call('HGET', RUN .. run, 'retention_ms') or 86400000)
  end_run(run, was, 'skipped', 'error', skipped_failure(reason), now, retention_ms)
  tell_parents({run}, now)
end

-- cancel a live run, and the children that it and they wait for -> the runs
local function cancel_tree(first, failure, retention_ms, with_children, now)
  local runs, n = {first}, 1
  while n <= #runs do
    local run = runs[n]
    local was = read_run(run)
    if was.live then
      local owner, children = end_run(run, was, 'cancelled', 'error', failure, now, retention_ms)
      if owner then redis.call('PUBLISH', INBOX .. owner, 'cancel ' .. run) end
      if with_children then
        for _, child in ipairs(children) do runs[#runs + 1] = child end
      end
    end
    n = n + 1
  end
  tell_parents(runs, now)
end
