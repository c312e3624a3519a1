-- examine_runs: compare each run with itself and with all that it demands elsewhere. With `repair`, restore what is missing.
-- It examines fewer runs than are named when these have very many steps, so that the server is not blocked for long.
-- USES     clock jobs waits state concurrency attempts indexes runs invokes maps map_items undo cancellation truth expected findings times
-- KEYS     1 live
-- ARGV     1 now_ms  2 repair (1 or 0)  3.. runs
-- MOVES    run queued|running|waiting -> queued|running|waiting; run waiting -> completed|failed|cancelled;
--          continuation leased|waitlisted|delayed|parked -> queued|waitlisted;
--          continuation queued|waitlisted|leased|delayed|batched|parked -> none; step leased|waitlisted|delayed -> queued|waitlisted;
--          step queued|waitlisted|leased|delayed|waiting|mapping -> none; step waiting -> memo; wake; end_item
-- RETURNS  {how many were examined, list of {code, where, subject, detail, 1 REPAIRED | 0 FOUND},
--          list of {ready job, when it was queued},
--          list of {run, step key, child, message} of waits for children in other partitions, which are not examined}
local MOST = 5000 -- fields of steps, entries of orders and hundreds of bytes of answers, in one call
local MANY_DEFERRALS = 8 -- about two minutes after the first
local now, queued, remote, examined, weight = clock(ARGV[1]), {}, {}, 0, 0
repairs = ARGV[2] == '1'

-- whether the keys of a run expire, as they must, or do not
local function examine_expiry(run, kinds, is_kept, keep_ms)
  for kind, key in pairs(kinds) do
    local ttl = redis.call('PTTL', key .. run)
    if is_kept and ttl >= 0 then
      report('expires_early', kind, run, '', function() redis.call('PERSIST', key .. run) end)
    elseif not is_kept and ttl == -1 then
      report('never_expires', kind, run, '', function() redis.call('PEXPIRE', key .. run, keep_ms) end)
    end
  end
end

-- memos and their order name the same steps, each once
local function examine_order(run, was)
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
  report('memo_order_wrong', '', run, '', function()
    if kept < #order and was.continuation == 'leased' then return false end -- its worker counts by the order
    redis.call('DEL', MEMO_ORDER .. run)
    for _, key in ipairs(good) do redis.call('RPUSH', MEMO_ORDER .. run, key) end
    local ttl = redis.call('PTTL', RUN .. run)
    if ttl > 0 then redis.call('PEXPIRE', MEMO_ORDER .. run, ttl) end
  end)
end

-- a run in a batch: the batch lists it, or has ended and its event is pending
local function examine_batch(run, was)
  local batch = was.batch or ''
  local is = redis.call('HMGET', RUN .. batch, 'status', 'finished', 'started_at', 'output', 'error')
  local lives = LIVE_STATUS[is[1] or '']
  if redis.call('LPOS', BATCHED .. batch, run) and (lives or is_pending(is[2])) then return end
  report('batch_lost', '', run, batch, function()
    if lives and not is[3] then
      redis.call('RPUSH', BATCHED .. batch, run)
    elseif is[1] and not lives then
      end_run(run, was, is[1], is[4] and 'output' or 'error', is[4] or is[5], now, KEPT_MS)
      wake_parents({run}, now)
    else
      return false
    end
  end)
end

-- a child that a step waits for: it lives, or its finished event is pending
local function examine_child(step)
  local run, key, member = step.run, step.key, step.run .. ':' .. step.key
  local child = redis.call('HMGET', RUN .. step.child, 'status', 'finished')
  if not child[1] then
    report('child_missing', '', member, step.child, function()
      local memo, was = redis.call('GET', TIMEOUT .. member) or memo_of_timeout(step, now), read_run(run)
      drop_wait(run, key)
      end_child_wait(run, was, key, memo, now)
    end)
  elseif not LIVE_STATUS[child[1]] and not is_pending(child[2]) then
    report('child_result_lost', '', member, step.child, function()
      local position, _, parent, name, was = resolve_by_child(step.child)
      if not position then return MAP_ITEMS.resolve(step.child, now) end
      if position == 0 then return false end
      wake_run(parent, was, name, position, now, '')
    end)
  end
end

-- drop a step, and what it demands in any state; the run is replayed, and asks again for what it needs
local function forget_step(step)
  local run, key, was = step.run, step.key, step.was
  for _, demands in pairs(DEMANDS) do
    for _, entry in ipairs(demands(step, now)) do
      for _, id in ipairs(entry[2]) do remove(entry[1], id, entry[3]) end
    end
  end
  redis.call('DEL', RQ_JOB .. step.id)
  drop_wait(run, key)
  drop_planned_step(run, was, key, true)
  if was.concurrency then release_slots(step.id, was, now) end
  if not redis.call('HGET', RUN .. run, 'continuation') then queue_run(run, was, now) end
end

local function compare_all(entries, job)
  for _, entry in ipairs(entries or {}) do
    if entry[1] == 'RQ_QUEUE' then -- to find a job in a list takes long
      queued[#queued + 1] = {job.id, redis.call('HGET', RQ_JOB .. job.id, 'enqueued_at') or ''}
    elseif not job.is_moved then
      compare(entry, job, now)
    end
  end
end

-- a job that workers have deferred again and again, because none can read its run or has its code
local function examine_deferrals(job, deferred)
  if job.is_moved or job.state ~= 'delayed' or tonumber(deferred or 0) < MANY_DEFERRALS then return end
  local key = job.key
  report('job_deferred', '', job.id, deferred, function()
    redis.call('HDEL', RUN .. job.run, 'deferred')
    redis.call('HDEL', STEPS .. job.run, key .. ':deferred')
    redis.call('ZREM', TIMEOUTS, 'job:' .. job.id)
    redis.call('ZREM', RQ_SCHEDULED .. job.list, job.id)
    requeue(job, now)
  end)
end

local function examine_job(job)
  if job.state == 'leased' and not (job.lease and job.owner and job.list) then
    return report('lease_invalid', '', job.id, '', function()
      drop_lease(job.id, job.list or list_of(job.was.queue, true), job.lease or '')
      requeue(job, now)
    end)
  end
  compare_all(expected(job, now), job)
  examine_deferrals(job, job.deferred or job.key == '' and redis.call('HGET', RUN .. job.run, 'deferred'))
  if job.message then
    remote[#remote + 1] = {job.run, job.key, job.child, job.message}
  elseif job.state == 'waiting' and job.child then
    examine_child(job)
  end
end

local function examine_step(step)
  local member = step.run .. ':' .. step.key
  if not (step.name and step.state and (step.detail or step.state ~= 'waiting')) then
    report('step_incomplete', '', member, '', function() forget_step(step) end)
  elseif redis.call('HEXISTS', MEMOS .. step.run, step.key) == 1 then
    report('step_has_memo', '', member, step.state, function() forget_step(step) end)
  else
    local future = future_of_step(step.run, step.key, now)
    if future then
      report('time_in_future', '', member, iso8601(future), function() step.due = mend_step(step.run, step.key, now) end)
    end
    examine_job(step)
  end
end

-- a map whose items have not all ended: as many are open as it says, and those that it has handed out are open or ended
local function examine_map(map, jobs)
  local run, key, open = map.run, map.key, 0
  for i = 2, #jobs do
    if #jobs[i].key >= 56 and MAPS.of_item(jobs[i].key) == key then open = open + 1 end
  end
  if open > 0 and open == tonumber(map.open) then return end
  report('map_stuck', '', run .. ':' .. key, open .. ' of ' .. map.open .. ' open items', function()
    local m = MAPS.read(run, key)
    m.open = 0
    for index = 0, m.next - 1 do
      if redis.call('HEXISTS', ITEMS .. run .. ':' .. key, index) == 0 then
        MAPS.plan_item(run, map.was, key, m, index, now, enqueue_or_wait)
        m.open = m.open + 1
      end
    end
    MAPS.hand_out(run, map.was, key, m, 100, now, enqueue_or_wait)
  end)
end

local function examine_live(run, was)
  examine_expiry(run, {RUN = RUN, MEMOS = MEMOS, MEMO_ORDER = MEMO_ORDER, ATTEMPTS = ATTEMPTS, STEPS = STEPS,
    SIGNALS = SIGNALS, SIGNAL_IDS = SIGNAL_IDS}, true)
  if not (was.app and was.function_id and was.queue and was.created_at) then return report('run_incomplete', '', run) end
  local future = future_of_run(run, now)
  if future then
    report('time_in_future', '', run, iso8601(future), function() mend_run(run, now) end)
    was = read_run(run)
  end
  local jobs = jobs_of(run, was)
  local state = jobs[1].state
  -- a continuation without a status here was written by a newer stepflow and is left alone
  if STATUS_OF[state] and STATUS_OF[state] ~= was.status then
    report('run_status_wrong', '', run, was.status, function() redis.call('HSET', RUN .. run, 'status', STATUS_OF[state]) end)
  end
  examine_job(jobs[1])
  if state == 'batched' then
    examine_batch(run, was)
  elseif state == 'parked' and not jobs[2] then
    report('run_stuck', '', run, '', function() queue_run(run, was, now) end)
  end
  for i = 2, #jobs do
    if jobs[i].state == 'mapping' then examine_map(jobs[i], jobs) end
    examine_step(jobs[i])
  end
end

-- a parent's memo is how its child ended, unless the wait ended by its time before
local function examine_answer(run, status, parent, key)
  local memo = redis.call('HGET', MEMOS .. parent, key)
  if not memo then return end
  weight = weight + #memo / 100
  local field = status == 'completed' and 'output' or 'error'
  local payload = redis.call('HGET', RUN .. run, field) or ''
  local answer = (field == 'output' and '{"data":' or '{"error":') .. payload .. ',"outcome":"' .. status .. '"'
  if string.sub(memo, 1, #answer) == answer or string.sub(memo, 1, #TIMED_OUT) == TIMED_OUT then return end
  report('child_outcome_differs', '', run, parent .. ':' .. key)
end

-- a run that ended while the clock was ahead is kept for as long as if it ended now
local function mend_ended(run, was, ended_at)
  local by_ms = ended_at - now
  redis.call('HSET', RUN .. run, 'ended_at', now)
  move_end(run, (was.app or '') .. '/' .. (was.function_id or ''), now, by_ms)
  if was.status == 'failed' then
    local until_s = redis.call('ZSCORE', RQ_FAILED .. was.queue, run)
    if until_s then redis.call('ZADD', RQ_FAILED .. was.queue, until_s - math.floor(by_ms / 1000), run) end
  end
  for _, key in ipairs({RUN .. run, MEMOS .. run, MEMO_ORDER .. run, RQ_JOB .. run}) do
    local ttl = redis.call('PTTL', key)
    if ttl > by_ms then redis.call('PEXPIRE', key, ttl - by_ms) end
  end
end

local function examine_ended(run, was)
  local ended_at = redis.call('HGET', RUN .. run, 'ended_at')
  if is_ahead(ended_at, now) then
    report('ended_in_future', '', run, iso8601(tonumber(ended_at)), function() mend_ended(run, was, ended_at) end)
  end
  local job = continuation_of(run, was)
  local entries, retention = expected(job, now)
  compare_all(entries, job)
  if was.continuation or was.lease or was.owner then
    report('orphaned', 'CONTINUATION', run, '', function()
      redis.call('HDEL', RUN .. run, 'continuation', 'lease', 'list', 'owner', 'leased_at', 'executing')
    end)
  end
  examine_expiry(run, {RUN = RUN, MEMOS = MEMOS, MEMO_ORDER = MEMO_ORDER, ATTEMPTS = ATTEMPTS}, retention.is_pending,
    retention.keep_ms)
  if was.signals then examine_expiry(run, {SIGNALS = SIGNALS, SIGNAL_IDS = SIGNAL_IDS}, false, retention.keep_ms) end
  if was.parent then examine_answer(run, was.status, was.parent, redis.call('HGET', RUN .. run, 'parent_step')) end
end

for i = 3, #ARGV do
  local run, was = ARGV[i], read_run(ARGV[i])
  examined = examined + 1
  if was.live then
    weight = weight + redis.call('HLEN', STEPS .. run) + redis.call('LLEN', MEMO_ORDER .. run)
    examine_live(run, was)
  elseif was.status then
    examine_ended(run, was)
  elseif redis.call('PTTL', RUN .. run) == -1 then
    report('run_status_missing', '', run, '', function() redis.call('PEXPIRE', RUN .. run, KEPT_MS) end)
  end
  if was.status then examine_order(run, was) end
  if weight > MOST then break end
end
return {examined, findings, queued, remote}
