-- undo: a run that undoes its completed steps before it ends.
-- A run has the field `undo` once its code has requested a step with an undo handler. If it then fails or is cancelled,
-- and a step has ended, it does not end yet: it stores how it will end, in `undoing` (the status) and `error`, and its
-- continuation is queued. From then on its jobs execute undo handlers, and nothing else. end_undo ends it.

-- the plan of a run that is to fail, or to be cancelled: 'begun' (it undoes already), 'due' (it has something to undo),
-- or nil
local function undo_plan(run)
  local plan = redis.call('HMGET', RUN .. run, 'undo', 'undoing')
  if plan[2] then return 'begun' end
  return plan[1] and redis.call('EXISTS', MEMO_ORDER .. run) == 1 and 'due' or nil
end

-- let a run undo its steps. Its jobs and waits are dropped as at its end, and so are its deadlines and what cancels it ->
-- the worker that had its lease, and the children that it waited for, in this partition and in others
local function begin_undo(run, was, status, failure, now)
  local children, jobs, remote = drop_work(run, was, false, now)
  redis.call('HDEL', RUN .. run, 'continuation', 'lease', 'list', 'owner', 'leased_at', 'executing', 'deaths', 'blocked',
    'deferred', 'left_by', 'cancel_events', 'finish_ms', 'closing')
  redis.call('HSET', RUN .. run, 'undoing', status, 'error', failure)
  release_all_slots(jobs, was, now)
  queue_run(run, was, now, true)
  return was.owner, children, remote
end
