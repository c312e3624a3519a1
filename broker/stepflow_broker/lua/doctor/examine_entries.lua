-- examine_entries: compare stored entries with those that runs demand. With `repair`, drop what no run demands.
-- An entry is a member of an index, or a key, as the library `expected` has it. It leaves entries of unknown kinds alone,
-- because a newer stepflow may have written them. Without the id of a queue, it examines whether each job is queued once.
-- USES     clock jobs waits state concurrency attempts indexes runs invokes pauses truth expected findings
-- KEYS     1 live (any key of the partition)
-- ARGV     1 now_ms  2 repair (1 or 0)  3 kind  4 id (of the index; '': there is one, or the members are keys)
--          5 own (1: only stepflow writes to it)  6.. members
-- MOVES    step queued|waitlisted|leased|delayed|waiting|mapping -> none; promote
-- RETURNS  list of {code, where, subject, detail, 1 REPAIRED | 0 FOUND}
local now, kind, id, own = clock(ARGV[1]), ARGV[3], ARGV[4], ARGV[5] == '1'
repairs = ARGV[2] == '1'

local EXPIRING = {IDEMPOTENCY = IDEMPOTENCY, THROTTLE = THROTTLE, DEBOUNCE = DEBOUNCE, BATCH = BATCH, RATE = RATE,
  EVENT_HISTORY = EVENT_HISTORY, EVENT_INDEX = EVENT_INDEX, COMPARED_PATHS = COMPARED_PATHS, ERROR_GROUP = ERROR_GROUP}
local FROM_RUNS = {run = true, remote_run = true, batch = true} -- finished events; the other entries are messages

local OF_ANY_RUN = {MEMOS = true, MEMO_ORDER = true, ATTEMPTS = true, SIGNALS = true, SIGNAL_IDS = true}

-- whether the status of a run alone says that an entry is expected: a shortcut for the many ended runs
local function is_plain(run)
  if OF_ANY_RUN[kind] then return redis.call('EXISTS', RUN .. run) == 1 end
  if kind ~= 'LIVE' and kind ~= 'INDEX' then return false end
  local f = redis.call('HMGET', RUN .. run, 'status', 'app', 'function')
  if kind == 'LIVE' then return LIVE_STATUS[f[1] or ''] end
  local which, name = string.match(id, '^(%a+) (.*)$')
  return f[1] and name == (f[2] or '') .. '/' .. (f[3] or '') and
    (which == 'function' or which == 'ended' and not LIVE_STATUS[f[1]] or which == 'failed' and f[1] == 'failed')
end

-- whether runs are about to be taken out of their indexes
local function may_forget()
  return redis.call('ZRANGEBYSCORE', EXPIRY, '-inf', now + SOON_MS, 'LIMIT', 0, 1)[1] ~= nil
end

local function is_expected(member, entries)
  for _, entry in ipairs(entries) do
    if entry[1] == kind and entry[3] == member then
      for _, one in ipairs(entry[2]) do
        if one == id then return true end
      end
    end
  end
end

-- whether an entry is left alone though no run demands it
local function is_tolerated(member, job)
  if kind == 'EXPIRY' or kind == 'RQ_FAILED' then -- they are kept until their time
    local until_ms = (redis.call('ZSCORE', ZSETS[kind] .. id, member) or 0) * (kind == 'EXPIRY' and 1 or 1000)
    if until_ms <= now + SOON_MS then return true end
  elseif kind == 'INDEX' then
    return not job.was.status and may_forget()
  elseif kind == 'RQ_JOB' and redis.call('PTTL', RQ_JOB .. member) ~= -1 then
    return true
  elseif kind == 'FINISHED' then
    local entry = string.match(member, '^%S+')
    local stored = redis.call('XRANGE', FINISHED, entry, entry)[1]
    return stored and not FROM_RUNS[stored[2][1]]
  end
  return string.sub(kind, 1, 3) == 'RQ_' and (not own and not is_ours(job.id) or is_foreign(job.id))
end

local function drop_orphan(member)
  local was = kind == 'STEPS' and read_run(member)
  if was and was.queue then drop_steps(member, was, read_steps(member)) end
  remove(kind, id, member)
end

-- a lease, a slot or the continuation after a pause that was noted while the clock was ahead
local function examine_time(member)
  local score = redis.call('ZSCORE', ZSETS[kind] .. id, member)
  local longest = kind == 'TIMEOUTS' and AHEAD_MS or LONGEST_LEASE_MS
  if kind == 'TIMEOUTS' and string.sub(member, 1, 7) ~= 'resume:' or not score or score == 'inf' then return end
  if score - now > longest then
    report('time_in_future', '', member, iso8601(tonumber(score)), function()
      redis.call('ZADD', ZSETS[kind] .. id, kind == 'TIMEOUTS' and now or now + RESERVED_MS, member)
    end)
  end
end

-- a function whose runs are listed has runs
local function examine_function(name)
  if redis.call('EXISTS', INDEX .. 'function ' .. name) == 0 then
    report('orphaned', kind, name, '', function() remove(kind, '', name) end)
  end
end

local function examine(member)
  if kind == 'TIMEOUTS' or kind == 'LEASES' or kind == 'CONCURRENCY_SLOTS' then examine_time(member) end
  if is_plain(member) then return end
  local run, key = owner_of(kind, member)
  if not run then return end
  local job = read_job(run, key)
  local entries = expected(job, now, kind)
  if kind == 'RQ_QUEUE' and own and is_foreign(job.id) and count_of(kind, id, member) > 0 then
    report('foreign_job', '', member, id)
  end
  if kind == 'RQ_QUEUE' and id == '' then
    for _, entry in ipairs(entries or {}) do
      if entry[1] == kind then compare(entry, job, now) end
    end
  elseif entries and not is_expected(member, entries) and not is_tolerated(member, job) and count_of(kind, id, member) > 0 then
    report('orphaned', kind, member, id, function() drop_orphan(member) end)
  elseif kind == 'RQ_JOB' and job.was.status == 'failed' and redis.call('PTTL', RQ_JOB .. member) == -1 then
    report('never_expires', kind, member, '', function() redis.call('PEXPIRE', RQ_JOB .. member, KEPT_MS) end)
  end
end

local function examine_expiry(name)
  if redis.call('PTTL', EXPIRING[kind] .. name) == -1 then
    report('never_expires', kind, name, '', function() redis.call('PEXPIRE', EXPIRING[kind] .. name, KEPT_MS) end)
  end
end

-- whether no job holds a slot whose end would promote the jobs of this wait list, and nothing else will
local function is_stalled()
  if string.match(id, '^queue ') then return false end -- claims take from it
  local code = string.match(id, '^code (.*)$')
  if code then return redis.call('SISMEMBER', CODE_WAITS, code) == 0 end
  local paused = string.match(id, '^function (.*)$')
  if redis.call('ZCARD', WAIT_LIST .. id) == 0 then return false end
  if redis.call('ZSCORE', TIMEOUTS, 'resume:' .. (paused and id or 'key ' .. id)) then return false end
  if paused then return not is_paused('function', paused) end
  return not is_paused('key', id) and redis.call('ZCARD', CONCURRENCY_SLOTS .. id) == 0
end

local function promote_first()
  local code = string.match(id, '^code (.*)$')
  if code then return redis.call('SADD', CODE_WAITS, code) end
  resume_subject(string.match(id, '^function ') and id or 'key ' .. id, now)
end

for i = 6, #ARGV do
  if kind == 'RUN_FUNCTIONS' then
    examine_function(ARGV[i])
  elseif EXPIRING[kind] then
    examine_expiry(ARGV[i])
  else
    examine(ARGV[i])
  end
end
if kind == 'CONCURRENCY_SLOTS' and repairs and findings[1] then promote_first() end
if kind == 'WAIT_LIST' and is_stalled() then report('wait_list_stalled', '', id, '', promote_first) end
return findings
