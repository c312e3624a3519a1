-- concurrency: how many jobs may be executed at once, under each concurrency limit.
-- The run's field `concurrency` lists the limits of its jobs. A limit has a name, `<scope>:<key>=<value>`. A job needs
-- one slot of each limit. A slot is a member of a zset, scored with the time at which it expires. So a crash never
-- leaks a slot. A job without a slot waits in the limit's wait list. The script that frees a slot gives it to the first
-- job of the wait list: the one with the oldest run. A job acquires its slots one limit after the other: the function's
-- own limits first, then those that functions share. It keeps the first slots while it waits for the next. So a tenant
-- has at most as many jobs in the wait list of a shared limit as it has slots of its own.

-- A limit of live runs has a name that begins with `runs `. Its slots belong to runs: a run acquires one before its first
-- job is queued, and keeps it until it ends, so such a slot has no expiry. Jobs of started runs need none.

-- A paused limit gives out no slots. Jobs of a paused function wait in the wait list `function <app/id>`. Jobs that a
-- worker without their code has met wait in the wait list `code <list>\\n<app/id>`, from which claim_jobs takes them. New runs with
-- a priority and without limits wait in the wait list `queue <queue>`, from which claim_jobs takes them.

local RESERVED_MS = 60000 -- how long a job keeps its slots while it is on a queue
local LONGEST_LEASE_MS = 3600000 -- a lease, or a slot, that lasts longer was granted while the clock was ahead

-- the field `concurrency`, `<max_jobs> <length of the name> <name>` repeated -> list of {name, max_jobs, of_runs}
local function read_limits(text)
  local limits, at = {}, 1
  text = text or ''
  while at <= #text do
    local max_jobs, size, first = string.match(text, '^(%d+) (%d+) ()', at)
    local name = string.sub(text, first, first + size - 1)
    limits[#limits + 1] = {name = name, max_jobs = tonumber(max_jobs), of_runs = string.sub(name, 1, 5) == 'runs '}
    at = first + size
  end
  return limits
end

-- what a limit is now: as it was changed by hand, else as it is declared. `kind` is concurrency, rate or throttle. A change
-- names a limit, or the limits of all values of a key: `<scope>:<key>=`.
local function limit_now(kind, name, declared, now)
  local changed = redis.call('HGETALL', LIMITS)
  for i = 1, #changed, 2 do
    local of, form = string.match(changed[i], '^(%a+) (.*)$')
    local limit, until_ms = string.match(changed[i + 1], '^(%d+) (%d+)')
    local is_form = name == form or string.sub(form, -1) == '=' and string.sub(name, 1, #form) == form
      and string.sub(name, #form + 1, #form + 1) ~= '='
    if of == kind and is_form and (until_ms == '0' or tonumber(until_ms) > now) then return tonumber(limit) end
  end
  return tonumber(declared)
end

local fill_slots -- defined below

local function is_paused(kind, name)
  return redis.call('HEXISTS', PAUSED, kind .. ' ' .. name) == 1
end

-- whether a job has a slot of a limit, or may take a free one. Jobs in the wait list come first: only a job that was
-- popped from it (`is_promoted`) takes a slot ahead of the others.
local function has_slot(limit, job, now, is_promoted)
  if is_paused('key', limit.name) then return false end
  local slots = CONCURRENCY_SLOTS .. limit.name
  if redis.call('ZSCORE', slots, job) then return true end
  if not is_promoted then fill_slots(limit, now) end -- slots may have expired
  return redis.call('ZCARD', slots) < limit_now('concurrency', limit.name, limit.max_jobs, now)
end

-- the score of a job in a wait list: jobs of started runs first, then by creation time less the priority. Within the
-- same millisecond, the job that came first.
local function wait_position(run, was)
  local priority_ms = redis.call('HGET', RUN .. run, 'priority_ms') or 0
  local fraction = redis.call('INCR', WAIT_LIST_SEQ) % 4000 / 4000
  return (was.started_at and -1e12 or 0) + was.created_at - priority_ms + fraction
end

-- extend a job's slots until a later time -> whether it has them all. Another job may have an expired slot.
local function extend_slots(job, was, until_ms)
  local has_all = true
  for _, limit in ipairs(read_limits(was.concurrency)) do
    local has = limit.of_runs or redis.call('ZSCORE', CONCURRENCY_SLOTS .. limit.name, job)
    if has and not limit.of_runs then redis.call('ZADD', CONCURRENCY_SLOTS .. limit.name, until_ms, job) end
    has_all = has_all and has
  end
  return has_all
end

-- acquire a slot of each limit in turn -> the first limit without a free slot, or nil. The slots acquired before it do
-- not expire while the job waits. `promoted_from` is the wait list that the job was popped from.
local function acquire_slots(job, was, now, until_ms, promoted_from)
  local acquired, full = {}, nil
  for _, limit in ipairs(read_limits(was.concurrency)) do
    if not (limit.of_runs and was.started_at) then
      if not has_slot(limit, job, now, promoted_from == limit.name) then
        full = limit
        break
      end
      redis.call('ZADD', CONCURRENCY_SLOTS .. limit.name, limit.of_runs and '+inf' or until_ms, job)
      acquired[#acquired + 1] = limit.name
    end
  end
  for n = 1, full and #acquired or 0 do redis.call('ZADD', CONCURRENCY_SLOTS .. acquired[n], '+inf', job) end
  return full
end

-- the wait list that a job must wait in now, or nil
local function wait_list_for(job, run, was, list, now, promoted_from)
  if was.concurrency then
    local full = acquire_slots(job, was, now, now + RESERVED_MS, promoted_from)
    return full and full.name
  end
  if not was.started_at and redis.call('HEXISTS', RUN .. run, 'priority_ms') == 1 then return 'queue ' .. list end
end

-- put a job on its list, or in the wait list that it must wait in -> its state: queued or waitlisted
local function enqueue_or_wait(job, run, was, list, description, now, at_front, promoted_from)
  local wait_list = wait_list_for(job, run, was, list, now, promoted_from)
  if not wait_list then
    push_job(job, list, description, now, at_front)
    return 'queued'
  end
  describe_job(job, list, 'deferred', description, now)
  redis.call('ZADD', WAIT_LIST .. wait_list, wait_position(run, was), job)
  if wait_list == 'queue ' .. list and redis.call('ZCARD', WAIT_LIST .. wait_list) == 1 then
    redis.call('PUBLISH', READY, list)
  end
  return 'waitlisted'
end

-- put a job that was popped from a wait list on its list (at the end, or at the front), or in the next wait list
local function promote(job, wait_list, now, at_front)
  local run, key = split_job(job)
  local was = read_run(run)
  local name = was.live and was.app .. '/' .. was.function_id
  if key == '' and was.continuation == 'waitlisted' then
    local state = enqueue_or_wait(job, run, was, list_of(was.queue, was.started_at), name, now, at_front, wait_list)
    redis.call('HSET', RUN .. run, 'continuation', state)
  elseif was.live and redis.call('HGET', STEPS .. run, key .. ':state') == 'waitlisted' then
    local id = redis.call('HGET', STEPS .. run, key)
    local description = name .. ': ' .. string.sub(id, 1, 100)
    local state = enqueue_or_wait(job, run, was, list_of_step(run, was, key), description, now, at_front, wait_list)
    redis.call('HSET', STEPS .. run, key .. ':state', state)
  end
end

-- shorten the times of a zset that are later than any that can be granted now: the clock was ahead
local function shorten(key, longest_ms, until_ms, now)
  for _, member in ipairs(redis.call('ZRANGE', key, now + longest_ms, '(+inf', 'BYSCORE')) do
    redis.call('ZADD', key, until_ms, member)
  end
end

-- give the free slots of a limit to the first jobs of its wait list
function fill_slots(limit, now)
  local slots = CONCURRENCY_SLOTS .. limit.name
  redis.call('ZREMRANGEBYSCORE', slots, '-inf', now)
  if is_paused('key', limit.name) then return end
  local max_jobs = limit_now('concurrency', limit.name, limit.max_jobs, now)
  if redis.call('ZCARD', slots) >= max_jobs then return shorten(slots, LONGEST_LEASE_MS, now + RESERVED_MS, now) end
  while redis.call('ZCARD', slots) < max_jobs do
    local job = redis.call('ZPOPMIN', WAIT_LIST .. limit.name)[1]
    if not job then return end
    promote(job, limit.name, now)
  end
end

-- move a job that was popped from its list to a wait list
local function defer(job, run, key, was, wait_list)
  redis.call('ZREM', CONCURRENCY_SLOTS .. wait_list, job)
  redis.call('ZADD', WAIT_LIST .. wait_list, wait_position(run, was), job)
  redis.call('HSET', RQ_JOB .. job, 'status', 'deferred')
  redis.call('HSET', key == '' and RUN .. run or STEPS .. run, key == '' and 'continuation' or key .. ':state', 'waitlisted')
end

local function leave_wait_lists(job, was)
  local name = was.app .. '/' .. was.function_id
  redis.call('ZREM', WAIT_LIST .. 'function ' .. name, job)
  redis.call('ZREM', WAIT_LIST .. 'queue ' .. was.queue, job)
  for _, list in ipairs(lists_of_job(job, was)) do
    local code = list .. '\n' .. name
    redis.call('ZREM', WAIT_LIST .. 'code ' .. code, job)
    for _, subject in ipairs(redis.call('SMEMBERS', CODE_WAITS)) do -- in other versions of the code
      if string.sub(subject, 1, #code + 1) == code .. '\n' then redis.call('ZREM', WAIT_LIST .. 'code ' .. subject, job) end
    end
  end
  for _, limit in ipairs(read_limits(was.concurrency)) do redis.call('ZREM', WAIT_LIST .. limit.name, job) end
end

-- move a job ahead in the wait list in which it is, by a time
local function move_up(job, was, by_ms)
  local name, lists = was.app .. '/' .. was.function_id, {'queue ' .. was.queue}
  lists[2] = 'function ' .. name
  for _, list in ipairs(lists_of_job(job, was)) do lists[#lists + 1] = 'code ' .. list .. '\n' .. name end
  for _, subject in ipairs(redis.call('SMEMBERS', CODE_WAITS)) do lists[#lists + 1] = 'code ' .. subject end
  for _, limit in ipairs(read_limits(was.concurrency)) do lists[#lists + 1] = limit.name end
  for _, list in ipairs(lists) do
    local position = redis.call('ZSCORE', WAIT_LIST .. list, job)
    if position then redis.call('ZADD', WAIT_LIST .. list, position - by_ms, job) end
  end
end

-- free a job's slots, and give them to the jobs that wait for them. A started run keeps its own until it `has_ended`.
local function release_slots(job, was, now, has_ended)
  for _, limit in ipairs(read_limits(was.concurrency)) do
    if has_ended or not (limit.of_runs and was.started_at) then
      redis.call('ZREM', CONCURRENCY_SLOTS .. limit.name, job)
      fill_slots(limit, now)
    end
  end
end
