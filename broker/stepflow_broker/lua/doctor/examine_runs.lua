-- examine_runs: look at runs, each with all that it must agree with. With `repair`, give back what the truth demands.
-- It looks at fewer than are named when these have very many steps, so that the server is not kept for long.
-- USES     clock jobs waits state concurrency runs invokes cancellation findings
-- KEYS     1 live
-- ARGV     1 now_ms  2 repair (1 or 0)  3.. runs
-- MOVES    run queued|running|waiting -> queued|running|waiting; run waiting -> completed|failed|cancelled;
--          continuation leased|gated|parked -> queued|gated;
--          continuation queued|gated|leased|delayed|batched|parked -> none; step leased|gated -> queued|gated;
--          step queued|gated|leased|delayed|waiting -> none; step waiting -> memo; wake
-- RETURNS  {how many were looked at, list of {code, subject, detail, 1 REPAIRED | 0 FOUND},
--          list of {ready job, when it was queued},
--          list of {run, step key, child, message} of waits for children that are away, which are not looked at}
local MOST = 5000 -- fields of steps, entries of orders and hundreds of bytes of answers, in one call
local LEASE_MS = 10000
local TIMED_OUT = '{"error":{"name":"InvokeTimeoutError"'
local now, queued, away, looked, weight = clock(ARGV[1]), {}, {}, 0, 0
repairs = ARGV[2] == '1'

-- state of a job -> its status in RQ
local RQ_STATUS = {queued = 'queued', gated = 'deferred', leased = 'started', delayed = 'scheduled', parked = 'deferred'}

local function requeue(job)
  if job.key == '' then requeue_run(job.run, job.was, now, true) else requeue_step(job.run, job.was, job.key, now, true) end
end

local function expect_timer(member, due)
  local score = redis.call('ZSCORE', TIMEOUTS, member)
  if due and score and tonumber(score) == tonumber(due) then return true end
  report('timer_missing', member, '', function() redis.call('ZADD', TIMEOUTS, due or now, member) end)
end

-- state of a job -> whether it has what it needs; `job` has id, run, key, was, lease, owner, due, list
local EXPECT = {
  queued = function(job)
    queued[#queued + 1] = {job.id, redis.call('HGET', RQ_JOB .. job.id, 'enqueued_at') or ''}
    return true
  end,
  leased = function(job)
    if not (job.lease and job.owner and job.list) then
      report('lease_invalid', job.id, '', function()
        drop_lease(job.id, job.list or list_of(job.was.queue, true), job.lease or '')
        requeue(job)
      end)
    elseif not redis.call('ZSCORE', LEASES, job.id) then
      report('lease_missing', job.id, job.owner, function() redis.call('ZADD', LEASES, now + LEASE_MS, job.id) end)
    else
      return true
    end
  end,
  gated = function(job)
    local lines = 0
    for _, line in ipairs(lines_of(job.was)) do
      if redis.call('ZSCORE', WAIT_LIST .. line, job.id) then lines = lines + 1 end
    end
    if lines == 1 then return true end
    report('wait_list_entry_missing', job.id, lines, function()
      leave_wait_lists(job.id, job.was)
      requeue(job)
    end)
  end,
  delayed = function(job) return expect_timer('job:' .. job.id, job.due) end,
  batched = function(job)
    local batch = job.was.batch or ''
    local is = redis.call('HMGET', RUN .. batch, 'status', 'finished', 'started_at', 'output', 'error')
    local lives, listed = LIVE_STATUS[is[1] or ''], redis.call('LPOS', BATCHED .. batch, job.id)
    if listed and (lives or is[2] and redis.call('XRANGE', FINISHED, is[2], is[2])[1]) then return end
    report('batch_lost', job.id, batch, function()
      if lives and not is[3] then
        redis.call('RPUSH', BATCHED .. batch, job.id)
      elseif is[1] and not lives then
        end_run(job.id, job.was, is[1], is[4] and 'output' or 'error', is[4] or is[5], now, KEPT_MS)
        wake_parents({job.id}, now)
      else
        return false
      end
    end)
  end,
}

-- what RQ's tools are shown of a job
local function expect_in_rq(job, state)
  local list, name = place_and_name(job.id, job.was)
  local wip, seen = RQ_WIP .. (job.list or list), redis.call('HGET', RQ_JOB .. job.id, 'status')
  local told = seen == RQ_STATUS[state]
  if state == 'leased' then told = told and redis.call('ZSCORE', wip, job.id .. ':' .. job.lease) end
  if state == 'delayed' then told = told and redis.call('ZSCORE', RQ_SCHEDULED .. list, job.id) end
  if told then return end
  report('rq_view_wrong', job.id, seen or '', function()
    describe_job(job.id, list, RQ_STATUS[state], name, now, {'enqueued_at', iso8601(now)})
    if state == 'leased' then
      redis.call('HSET', RQ_JOB .. job.id, 'worker_name', job.owner, 'started_at', iso8601(now))
      redis.call('ZADD', wip, math.floor((now + LEASE_MS) / 1000) + RQ_GRACE_S, job.id .. ':' .. job.lease)
    elseif state == 'delayed' then
      redis.call('ZADD', RQ_SCHEDULED .. list, math.ceil(job.due / 1000), job.id)
    end
  end)
end

local function expect_job(job, state)
  if EXPECT[state] and EXPECT[state](job) or state == 'parked' then expect_in_rq(job, state) end
end

-- the memo of a wait whose time is over, when the timeout key that had it is gone
local function timeout_memo(step)
  if step.child then
    return TIMED_OUT .. ',"message":"the run did not finish in time"},"outcome":"timeout",' .. step.detail
  end
  return '{"data":null,"outcome":"time","ended_at":' .. (step.due or now) .. ',' .. step.detail
end

local function expect_child(run, key, step)
  local child = redis.call('HMGET', RUN .. step.child, 'status', 'finished')
  if not child[1] then
    report('child_missing', run .. ':' .. key, step.child, function()
      local memo, was = redis.call('GET', TIMEOUT .. run .. ':' .. key) or timeout_memo(step), read_run(run)
      drop_wait(run, key)
      wake_run(run, was, key, select(2, record_memo(run, was, key, memo)), now, '')
    end)
  elseif not LIVE_STATUS[child[1]] and not (child[2] and redis.call('XRANGE', FINISHED, child[2], child[2])[1]) then
    report('child_result_lost', run .. ':' .. key, step.child, function()
      local position, _, parent, name, was = resolve_by_child(step.child)
      if position == 0 then return false end
      wake_run(parent, was, name, position, now, '')
    end)
  end
end

local function expect_in_index(index, member)
  if redis.call('SISMEMBER', WAITS .. index, member) == 1 then return end
  report('wait_index_missing', member, '', function() add_wait(index, member) end)
end

-- what ends a run from outside: events, and the times by which it must have started and ended
local function expect_bounds(run, was)
  for n = 0, was.cancel_events - 1 do
    local index = redis.call('HGET', RUN .. run, 'cancel:' .. n)
    if index then expect_in_index(index, run .. ':!' .. n) end
  end
  local within = redis.call('HMGET', RUN .. run, 'start_within', 'finish_within', 'finish_ms')
  local what = was.started_at and 'finish' or 'start'
  if not within[was.started_at and 2 or 1] or redis.call('ZSCORE', TIMEOUTS, what .. ':' .. run) then return end
  report('timer_missing', what .. ':' .. run, '', was.started_at and function()
    redis.call('ZADD', TIMEOUTS, was.started_at + within[3], 'finish:' .. run)
  end)
end

local function expect_wait(run, key, step)
  local member = run .. ':' .. key
  expect_timer('wait:' .. member, step.due)
  if redis.call('EXISTS', TIMEOUT .. member) == 0 then
    report('timeout_key_missing', member, '', function() redis.call('SET', TIMEOUT .. member, timeout_memo(step)) end)
  end
  if step.index then expect_in_index(step.index, member) end
  if step.message then
    away[#away + 1] = {run, key, step.child, step.message}
  elseif step.child then
    expect_child(run, key, step)
  end
end

-- forget what stands in a run's steps and is no step, or has ended; the run is replayed, and asks for what it needs
local function forget_step(run, was, key, step)
  local job, list = job_of(run, key), list_of(was.queue, true)
  redis.call('LREM', RQ_QUEUE .. list, 0, job)
  redis.call('ZREM', TIMEOUTS, 'job:' .. job)
  redis.call('ZREM', RQ_SCHEDULED .. list, job)
  redis.call('DEL', RQ_JOB .. job)
  if step.lease then drop_lease(job, list, step.lease) end
  drop_wait(run, key, step.index)
  drop_planned_step(run, key, true)
  leave_wait_lists(job, was)
  if was.concurrency then release_slots(job, was, now) end
  if not redis.call('HGET', RUN .. run, 'continuation') then queue_run(run, was, now) end
end

local function look_at_step(run, was, key, step)
  if not (step.id and step.state) then
    report('step_incomplete', run .. ':' .. key, '', function() forget_step(run, was, key, step) end)
  elseif redis.call('HEXISTS', MEMOS .. run, key) == 1 then
    report('step_ended', run .. ':' .. key, step.state, function() forget_step(run, was, key, step) end)
  elseif step.state == 'waiting' then
    expect_wait(run, key, step)
  else
    expect_job({id = job_of(run, key), run = run, key = key, was = was, lease = step.lease, owner = step.owner,
      due = step.due, list = list_of(was.queue, true)}, step.state)
  end
end

-- planned steps by their keys
local function read_steps(run)
  local flat, steps = redis.call('HGETALL', STEPS .. run), {}
  for i = 1, #flat, 2 do
    local key, name = string.match(flat[i], '^(%x+):?(%a*)$')
    if key then
      steps[key] = steps[key] or {}
      steps[key][name == '' and 'id' or name] = flat[i + 1]
    end
  end
  return steps
end

-- memos and their order name the same steps, each once
local function look_at_order(run, was)
  if redis.call('HLEN', MEMOS .. run) == redis.call('LLEN', MEMO_ORDER .. run) and not was.live then return end
  local seen, order, good = {}, redis.call('LRANGE', MEMO_ORDER .. run, 0, -1), {}
  local memos = redis.call('HKEYS', MEMOS .. run)
  for _, key in ipairs(memos) do seen[key] = 1 end
  for _, key in ipairs(order) do
    if seen[key] == 1 then good[#good + 1] = key end
    if seen[key] then seen[key] = 2 end
  end
  local kept = #good
  for _, key in ipairs(memos) do
    if seen[key] == 1 then good[#good + 1] = key end
  end
  if kept == #order and kept == #good then return end
  report('memo_order_wrong', run, '', function()
    if kept < #order and was.continuation == 'leased' then return false end -- its worker counts by the order
    redis.call('DEL', MEMO_ORDER .. run)
    for _, key in ipairs(good) do redis.call('RPUSH', MEMO_ORDER .. run, key) end
    local ttl = redis.call('PTTL', RUN .. run)
    if ttl > 0 then redis.call('PEXPIRE', MEMO_ORDER .. run, ttl) end
  end)
end

local function look_at_live(run, was)
  for kind, key in pairs({run = RUN .. run, memos = MEMOS .. run, order = MEMO_ORDER .. run, steps = STEPS .. run}) do
    if redis.call('PTTL', key) >= 0 then
      report('live_run_expires', run, kind, function() redis.call('PERSIST', key) end)
    end
  end
  if not (was.app and was.function_id and was.queue and was.created_at) then return report('run_incomplete', run) end
  if not redis.call('ZSCORE', KEYS[1], run) then
    report('live_run_unlisted', run, '', function() redis.call('ZADD', KEYS[1], was.created_at, run) end)
  end
  if was.singleton and redis.call('GET', SINGLETON .. was.singleton) ~= run then
    report('singleton_lost', run, was.singleton, function()
      return redis.call('SET', SINGLETON .. was.singleton, run, 'NX') and true
    end)
  end
  if was.cancel_events then expect_bounds(run, was) end
  local state, steps = was.continuation or 'parked', read_steps(run)
  -- a continuation without a status here was written by a newer stepflow and is left alone
  if STATUS_OF[state] and STATUS_OF[state] ~= was.status then
    report('run_status_wrong', run, was.status, function() redis.call('HSET', RUN .. run, 'status', STATUS_OF[state]) end)
  end
  if state == 'parked' and next(steps) == nil then
    report('run_stuck', run, '', function() queue_run(run, was, now) end)
  else
    expect_job({id = run, run = run, key = '', was = was, lease = was.lease, owner = was.owner, list = was.list,
      due = state == 'delayed' and redis.call('HGET', RUN .. run, 'due')}, state)
  end
  for key, step in pairs(steps) do look_at_step(run, was, key, step) end
end

-- a parent's memo is what its child's end was, unless the time was over before
local function look_at_answer(run, status, parent, key)
  local memo = redis.call('HGET', MEMOS .. parent, key)
  if not memo then return end
  weight = weight + #memo / 100
  local field = status == 'completed' and 'output' or 'error'
  local payload = redis.call('HGET', RUN .. run, field) or ''
  local expected = (field == 'output' and '{"data":' or '{"error":') .. payload .. ',"outcome":"' .. status .. '"'
  if string.sub(memo, 1, #expected) == expected or string.sub(memo, 1, #TIMED_OUT) == TIMED_OUT then return end
  report('child_outcome_differs', run, parent .. ':' .. key)
end

local function look_at_ended(run, was)
  local f = redis.call('HMGET', RUN .. run, 'finished', 'keep_ms', 'retention_ms', 'parent_step')
  local unseen = f[1] and redis.call('XRANGE', FINISHED, f[1], f[1])[1]
  local ttl = redis.call('PTTL', RUN .. run)
  local keep_ms = ttl > 0 and ttl or tonumber(f[2] or f[3] or KEPT_MS)
  if was.continuation or was.lease or was.owner then
    report('ended_run_holds_job', run, '', function() redis.call('HDEL', RUN .. run, 'continuation', 'lease', 'list', 'owner') end)
  end
  if redis.call('EXISTS', STEPS .. run) == 1 then
    report('ended_run_has_steps', run, '', function()
      drop_steps(run, was)
      redis.call('DEL', STEPS .. run)
    end)
  end
  for kind, key in pairs({run = RUN .. run, memos = MEMOS .. run, order = MEMO_ORDER .. run}) do
    local left = redis.call('PTTL', key)
    if left == -1 and not unseen then
      report('ended_run_never_expires', run, kind, function() redis.call('PEXPIRE', key, keep_ms) end)
    elseif left >= 0 and unseen then
      report('ended_run_expires_early', run, kind, function() redis.call('PERSIST', key) end)
    end
  end
  local until_ms = f[2] and redis.call('HGET', RUN .. run, 'ended_at') + f[2] or not was.parent and now + ttl or 0
  if until_ms > now + 60000 and not redis.call('ZSCORE', ENDED, run) then
    report('ended_run_unlisted', run, '', function() redis.call('ZADD', ENDED, now + keep_ms, run) end)
  end
  if was.parent then look_at_answer(run, was.status, was.parent, f[4]) end
end

for i = 3, #ARGV do
  local run, was = ARGV[i], read_run(ARGV[i])
  looked = looked + 1
  if was.live then
    weight = weight + redis.call('HLEN', STEPS .. run) + redis.call('LLEN', MEMO_ORDER .. run)
    look_at_live(run, was)
  elseif was.status then
    look_at_ended(run, was)
  elseif redis.call('PTTL', RUN .. run) == -1 then
    report('run_status_missing', run, '', function() redis.call('PEXPIRE', RUN .. run, KEPT_MS) end)
  end
  if was.status then look_at_order(run, was) end
  if weight > MOST then break end
end
return {looked, findings, queued, away}
