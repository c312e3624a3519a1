-- findings: compare what is expected with what is stored, report the difference and, if asked to, repair it.
-- An examination reads one thing and all that it must agree with in one script, so a busy server gives no false alarm.

local findings, repairs = {}, false
local ZSETS = {LIVE = LIVE, INDEX = INDEX, EXPIRY = EXPIRY, ASKS = ASKS, LEASES = LEASES, TIMEOUTS = TIMEOUTS, CONCURRENCY_SLOTS = CONCURRENCY_SLOTS,
  WAIT_LIST = WAIT_LIST, RQ_WIP = RQ_WIP, RQ_SCHEDULED = RQ_SCHEDULED, RQ_FAILED = RQ_FAILED}
local WHOLE_KEYS = {MEMOS = MEMOS, MEMO_ORDER = MEMO_ORDER, ATTEMPTS = ATTEMPTS, SIGNALS = SIGNALS, SIGNAL_IDS = SIGNAL_IDS, STEPS = STEPS, BATCHED = BATCHED, TIMEOUT = TIMEOUT,
  ITEMS = ITEMS,  RQ_JOB = RQ_JOB, SINGLETON = SINGLETON}

-- report a finding at a place: a kind of key, or ''. `repair` may answer false: not now.
local function report(code, kind, subject, detail, repair)
  local is_repaired = repairs and repair and repair() ~= false
  findings[#findings + 1] = {code, string.lower(kind), subject, tostring(detail or ''), is_repaired and 1 or 0}
end

-- whether a job of RQ belongs to stepflow; other programs may use RQ on the same server
local function is_ours(job)
  if redis.call('EXISTS', RUN .. split_job(job)) == 1 then return true end
  return string.find(redis.call('HGET', RQ_JOB .. job, 'data') or '', OWN_DATA, 1, true) == 1
end

-- how often a key has a member
local function count_of(kind, id, member, entry)
  if ZSETS[kind] then
    local score = redis.call('ZSCORE', ZSETS[kind] .. id, member)
    return score and (not (entry and entry.exact) or tonumber(score) == tonumber(entry.exact)) and 1 or 0
  elseif kind == 'RQ_QUEUE' then
    return #redis.call('LPOS', RQ_QUEUE .. id, member, 'COUNT', 2)
  elseif kind == 'WAITS' then
    return redis.call('SISMEMBER', WAITS .. id, member)
  elseif kind == 'RUN_FUNCTIONS' then
    return redis.call('SISMEMBER', RUN_FUNCTIONS, member)
  elseif kind == 'FINISHED' then
    return is_pending(string.match(member, '^%S+')) and 1 or 0
  elseif entry and entry.value then
    if kind == 'RQ_JOB' then return redis.call('HGET', RQ_JOB .. member, 'status') == entry.value and 1 or 0 end
    return redis.call('GET', SINGLETON .. member) == entry.value and 1 or 0
  end
  return redis.call('EXISTS', WHOLE_KEYS[kind] .. member)
end

local function remove(kind, id, member)
  if ZSETS[kind] then
    redis.call('ZREM', ZSETS[kind] .. id, member)
  elseif kind == 'RQ_QUEUE' then
    redis.call('LREM', RQ_QUEUE .. id, 0, member)
  elseif kind == 'WAITS' then
    remove_wait(id, member)
  elseif kind == 'RUN_FUNCTIONS' then
    redis.call('SREM', RUN_FUNCTIONS, member)
  elseif kind == 'FINISHED' then
    ack_entry(string.match(member, '^%S+'))
  else
    redis.call('DEL', WHOLE_KEYS[kind] .. member)
  end
end

-- the memo of a wait that ends by its time, when the timeout key that had it is gone
local TIMED_OUT = '{"error":{"name":"InvokeTimeoutError"'
local function memo_of_timeout(step, now)
  if step.child then
    return TIMED_OUT .. ',"message":"the run did not finish in time"},"outcome":"timeout",' .. step.detail
  end
  return memo_of_time(step.due or now, step.detail)
end

local function requeue(job, now)
  if job.key == '' then requeue_run(job.run, job.was, now, true) else requeue_step(job.run, job.was, job.key, now, true) end
  job.is_moved = true -- what was expected of it before is out of date
end

-- kind -> how an entry is restored, where its score is not enough
local RESTORE = {
  RQ_QUEUE = function(entry, job, now)
    for _, list in ipairs(entry[2]) do redis.call('LREM', RQ_QUEUE .. list, 0, job.id) end
    push_job(job.id, job.list, description_of(job), now, true)
  end,
  WAIT_LIST = function(_, job, now)
    leave_wait_lists(job.id, job.was)
    requeue(job, now)
  end,
  RUN_FUNCTIONS = function(entry) redis.call('SADD', RUN_FUNCTIONS, entry[3]) end,
  WAITS = function(entry) add_wait(entry[2][1], entry[3]) end,
  TIMEOUT = function(entry, job, now) redis.call('SET', TIMEOUT .. entry[3], memo_of_timeout(job, now)) end,
  SINGLETON = function(entry) return redis.call('SET', SINGLETON .. entry[3], entry.value, 'NX') and true end,
  RQ_JOB = function(entry, job, now)
    describe_job(job.id, job.list, entry.value, description_of(job), now, {'enqueued_at', iso8601(now)})
    if job.state == 'leased' then
      redis.call('HSET', RQ_JOB .. job.id, 'worker_name', job.owner, 'started_at', iso8601(now))
    end
  end,
}

local function restore(entry, job, now)
  local kind, ids, member = unpack(entry)
  if RESTORE[kind] then return RESTORE[kind](entry, job, now) end
  if not entry.score then return false end
  redis.call('ZADD', ZSETS[kind] .. ids[1], entry.score, member)
end

-- compare an entry with what is stored
local function compare(entry, job, now)
  if entry.optional then return end
  local kind, ids, member = unpack(entry)
  local count = 0
  for _, id in ipairs(ids) do count = count + count_of(kind, id, member, entry) end
  if count == 1 then return end
  report(count == 0 and 'missing' or 'duplicated', kind, member, table.concat(ids, ' or '), function()
    return restore(entry, job, now)
  end)
end
