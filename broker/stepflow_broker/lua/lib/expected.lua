-- expected: what the truth of a run demands of all other keys. The truth is the run's hash, its memos and its steps.
-- An entry is {kind, ids, member}: exactly one of the keys `kind` .. id, for an id of `ids`, has the member. `kind` is the
-- constant of the key. A key without members, such as the steps of a run, is an entry too: {kind, {''}, id of the key}.
-- Fields of an entry: `score` in a zset; `exact`: the score that is stored must be this one; `value` of a string, or status
-- of a job of RQ; `optional`: it may be missing.

local ONE = {''}
local LEASE_MS = 10000 -- of a lease that is restored
local KEPT_MS = 86400000 -- how long data without a known retention is kept
local SOON_MS = 60000 -- entries that expire within this time may be missing, and may still be there

-- the names of the wait lists in which a job may be
local function wait_lists_of(id, was)
  local names = {}
  for _, limit in ipairs(read_limits(was.concurrency)) do names[#names + 1] = limit.name end
  local name = was.app .. '/' .. was.function_id
  names[#names + 1] = 'function ' .. name
  for _, list in ipairs(lists_of_job(id, was)) do
    local code = list .. '\n' .. name
    names[#names + 1] = 'code ' .. code
    for _, subject in ipairs(redis.call('SMEMBERS', CODE_WAITS)) do
      if string.sub(subject, 1, #code + 1) == code .. '\n' then names[#names + 1] = 'code ' .. subject end
    end
  end
  names[#names + 1] = 'queue ' .. was.queue
  return names
end

-- whether a finished event has not been handled yet
local function is_pending(entry)
  return entry and redis.call('XRANGE', FINISHED, entry, entry)[1] and true
end

-- how long an ended run is kept: {its finished event, whether that is pending, keep_ms}
local function read_retention(run)
  local f = redis.call('HMGET', RUN .. run, 'finished', 'keep_ms', 'retention_ms')
  local ttl = redis.call('PTTL', RUN .. run)
  return {event = f[1], is_pending = is_pending(f[1]), keep_ms = ttl > 0 and ttl or tonumber(f[2] or f[3] or KEPT_MS)}
end

-- the entry of a waiting step in the index of what it waits for; nil: a time or a signal, of which there is no index
local function index_entry(job, member, now)
  if job.index == 'ask' then return {'ASKS', ONE, member, score = job.began or now} end
  return job.index and not string.match(job.index, '^signal\n') and {'WAITS', {job.index}, member} or nil
end

-- state -> the entries that it demands
local DEMANDS = {
  queued = function(job)
    return {{'RQ_QUEUE', lists_of_job(job.id, job.was), job.id}}
  end,
  leased = function(job, now)
    local rq_score = math.floor((now + LEASE_MS) / 1000) + RQ_GRACE_S
    return {{'LEASES', ONE, job.id, score = now + LEASE_MS},
      {'RQ_WIP', {job.list}, job.id .. ':' .. (job.lease or ''), score = rq_score}}
  end,
  waitlisted = function(job)
    return {{'WAIT_LIST', wait_lists_of(job.id, job.was), job.id}}
  end,
  delayed = function(job, now)
    local due = job.due or now
    return {{'TIMEOUTS', ONE, 'job:' .. job.id, score = due, exact = job.due},
      {'RQ_SCHEDULED', {job.list}, job.id, score = math.ceil(due / 1000)}}
  end,
  waiting = function(job, now)
    local member = job.run .. ':' .. job.key
    return {{'TIMEOUTS', ONE, 'wait:' .. member, score = job.due or now, exact = job.due}, {'TIMEOUT', ONE, member},
      index_entry(job, member, now)}
  end,
  mapping = function() return {} end, -- its items have jobs; see examine_runs
  parked = function() return {} end,
  batched = function() return {} end, -- the batch lists it; see examine_runs
}

-- what cancels a live run from outside: events, and the times by which it must start and end
local function cancellations(entries, run, was)
  for n = 0, was.cancel_events - 1 do
    local index = redis.call('HGET', RUN .. run, 'cancel:' .. n)
    if index then entries[#entries + 1] = {'WAITS', {index}, run .. ':!' .. n} end
  end
  local f = redis.call('HMGET', RUN .. run, 'start_within', 'finish_within', 'finish_ms')
  if f[1] and not was.started_at then entries[#entries + 1] = {'TIMEOUTS', ONE, 'start:' .. run} end
  if f[2] and was.started_at then
    entries[#entries + 1] = {'TIMEOUTS', ONE, 'finish:' .. run, score = was.started_at + (f[3] or 0)}
  end
end

-- the indexes by which a run is found
local function indexes_of(entries, run, was, retention, now)
  local name, f = (was.app or '') .. '/' .. (was.function_id or ''), redis.call('HMGET', RUN .. run, 'indexed', 'ended_at')
  local tags, errors = further_subjects(f[1])
  local function add(subject, score)
    entries[#entries + 1] = {'INDEX', {subject}, run, score = score, exact = score}
  end
  add('function ' .. name, was.created_at or 0)
  entries[#entries + 1] = {'RUN_FUNCTIONS', ONE, name}
  for _, tag in ipairs(tags) do add(tag, was.created_at or 0) end
  if was.live then return end
  local ended_at = f[2] or now
  add('ended ' .. name, ended_at)
  if was.status == 'failed' then
    add('failed ' .. name, ended_at)
    for _, subject in ipairs(errors) do add(subject, ended_at) end
  end
  entries[#entries + 1] = {'EXPIRY', ONE, expiry_of(run, name, f[1]), score = now + retention.keep_ms}
end

local function demands_of_run(run, was, now)
  if was.live then
    local entries = {{'LIVE', ONE, run, score = was.created_at}, {'STEPS', ONE, run, optional = true},
      {'BATCHED', ONE, run, optional = true}}
    if was.singleton then entries[4] = {'SINGLETON', ONE, was.singleton, value = run} end
    indexes_of(entries, run, was, nil, now)
    if was.cancel_events then cancellations(entries, run, was) end
    return entries
  end
  local retention = read_retention(run)
  local entries = {}
  indexes_of(entries, run, was, retention, now)
  if retention.is_pending then
    entries[#entries + 1] = {'FINISHED', ONE, retention.event .. ' ' .. run, optional = true}
    entries[#entries + 1] = {'BATCHED', ONE, run, optional = true}
  end
  if was.status == 'failed' then
    entries[#entries + 1] = {'RQ_FAILED', {was.queue}, run, optional = true}
    entries[#entries + 1] = {'RQ_JOB', ONE, run, optional = true}
  end
  return entries, retention
end

-- kinds of keys that only runs demand, or only jobs
local OF_RUNS = {LIVE = true, INDEX = true, RUN_FUNCTIONS = true, EXPIRY = true, STEPS = true, BATCHED = true, SINGLETON = true, FINISHED = true, RQ_FAILED = true}
local OF_JOBS = {RQ_QUEUE = true, ASKS = true, LEASES = true, WAIT_LIST = true, CONCURRENCY_SLOTS = true, TIMEOUT = true, ITEMS = true, RQ_WIP = true,
  RQ_SCHEDULED = true}

-- a started run has a slot of each of its limits of live runs
local function slots_of_run(entries, run, was)
  for _, limit in ipairs(read_limits(was.concurrency)) do
    if limit.of_runs then entries[#entries + 1] = {'CONCURRENCY_SLOTS', {limit.name}, run, score = '+inf'} end
  end
end

-- the entries that a job demands, a continuation with those of its run -> the entries, and the retention of an ended run.
-- `kind` may leave out what has none of this kind. nil: unknown, because the run has lost fields, or a newer stepflow
-- wrote the state
local function expected(job, now, kind)
  local was, entries, retention, demands = job.was, {}, nil, DEMANDS[job.state]
  if not was.status then
    if redis.call('EXISTS', RUN .. job.run) == 1 then return nil end
    return entries
  end
  local is_whole = was.app and was.function_id and was.queue and was.created_at
  if was.live and not (is_whole and (demands or not job.state)) then return nil end
  if job.key == '' and not OF_JOBS[kind] then entries, retention = demands_of_run(job.run, was, now) end
  if was.live and demands and not OF_RUNS[kind] then
    for _, entry in ipairs(demands(job, now)) do entries[#entries + 1] = entry end
    if job.count then entries[#entries + 1] = {'ITEMS', ONE, job.run .. ':' .. job.key, optional = true} end
    if RQ_STATUS[job.state] then entries[#entries + 1] = {'RQ_JOB', ONE, job.id, value = RQ_STATUS[job.state]} end
    if was.concurrency and (job.state == 'queued' or job.state == 'leased' or job.state == 'waitlisted') then
      entries[#entries + 1] = {'CONCURRENCY_SLOTS', wait_lists_of(job.id, was), job.id, optional = true}
    end
  end
  if was.live and was.started_at and job.key == '' and not OF_RUNS[kind] then slots_of_run(entries, job.run, was) end
  return entries, retention
end

-- whose an entry is -> run, step key ('': the run's own); nil: unknown
local function owner_of(kind, member)
  local job = member
  if kind == 'RQ_WIP' then
    job = string.match(member, '^(.*):.-$') or member
  elseif kind == 'SINGLETON' then
    return redis.call('GET', SINGLETON .. member) or nil, ''
  elseif kind == 'FINISHED' then
    return string.match(member, '^%S+ (.*)$'), ''
  elseif kind == 'EXPIRY' then
    return string.match(member, '^%S+'), ''
  elseif kind == 'TIMEOUTS' then
    local what, subject = string.match(member, '^(%a+):(.*)$')
    if what == 'start' or what == 'finish' then return subject, '' end
    if what == 'wait' then return string.match(subject, '^(.*):(%x+)$') end
    if what ~= 'job' then return nil end -- resume, event, or a kind of a newer stepflow
    job = subject
  elseif kind == 'TIMEOUT' or kind == 'ITEMS' or kind == 'WAITS' or kind == 'ASKS' then
    local run, key = string.match(member, '^(.*):(!?%x+)$')
    return run, run and (string.sub(key, 1, 1) == '!' and '' or key)
  end
  return split_job(job)
end
