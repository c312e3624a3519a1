-- claim_jobs: lease ready jobs to a worker, in the order of the lists; within a list, jobs of older runs first.
-- A job that its run or step no longer needs is dropped. A job of a paused function is deferred to a wait list. Nothing
-- is claimed while RQ is suspended, or from a paused queue. A claim that a worker sends again, because it lost the
-- reply, gets the same jobs. Jobs of other programs that use RQ stay on their list. A job of which this worker does not
-- have the code is deferred to a wait list, from which the next claim of a worker that has it takes it. So is a job of a
-- pinned run that another release executes. A job of a run that has failed, which RQ's tools have requeued, is noted: a
-- worker retries the run.
-- USES     clock jobs state concurrency code
-- KEYS     1 rq_suspended  2 paused  3 last_claim
-- ARGV     1 now_ms  2 worker  3 limit  4 lease_ms  5 claim (a number that the worker uses once; 0: never repeated)
--          6 code (the digest of the worker's functions; '': it has all)  7 version (of the worker's code)  8.. lists, in order
-- MOVES    run queued -> running; continuation queued -> leased|waitlisted; step queued -> leased|waitlisted; promote
-- RETURNS  {list of jobs, list of {list, how many jobs of other programs it has in front},
--          list of {function, how many jobs of it were deferred for lack of its code}}, 0 SUSPENDED
local now, worker, limit, lease_ms = clock(ARGV[1]), ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
local MAX_DEFERRED = 500 -- jobs deferred in one script
local MAX_FOREIGN = 1000 -- jobs of other programs that one script passes over, in one list
local paused, deferred, pauses = {}, 0, redis.call('HKEYS', KEYS[2])
for _, subject in ipairs(pauses) do paused[subject] = true end

-- whether a job may be executed: its function is not paused, and it has its slots, which may have expired on the queue.
-- If not, it is deferred.
local function may_execute(job, run, key)
  local was = read_run(run)
  local wait_list = 'function ' .. was.app .. '/' .. was.function_id
  if paused[wait_list] then
    release_slots(job, was, now)
    deferred = deferred + 1
  else
    local full = was.concurrency and acquire_slots(job, was, now, now + lease_ms)
    if not full then return true end
    wait_list = full.name
  end
  defer(job, run, key, was, wait_list)
  return false
end

local has, lacking = {}, {}
-- whether this worker has the code of a function. It has all if its set has expired: then the worker finds out itself.
local function has_code(name)
  if has[name] == nil then
    local code = CODE .. ARGV[6]
    has[name] = ARGV[6] == '' or redis.call('SISMEMBER', code, name) == 1 or redis.call('EXISTS', code) == 0
  end
  return has[name]
end

-- leave a job to the workers of a wait list -> false: it is not claimed
local function leave_to(job, run, key, list, subject)
  local was = read_run(run)
  release_slots(job, was, now)
  defer(job, run, key, was, 'code ' .. subject)
  redis.call('SADD', CODE_WAITS, subject)
  if redis.call('ZCARD', WAIT_LIST .. 'code ' .. subject) == 1 then redis.call('PUBLISH', READY, list) end
  deferred = deferred + 1
  return false
end

-- leave a job to a worker that has the code of its function -> false
local function leave_to_others(job, run, key, list, name)
  lacking[name] = (lacking[name] or 0) + 1
  return leave_to(job, run, key, list, list .. '\n' .. name)
end

-- leave a job of a pinned run to a worker of its release -> false
local function leave_to_release(job, run, key, list, name, release)
  return leave_to(job, run, key, list, list .. '\n' .. name .. '\n=' .. release)
end

-- the release that executes a started run, if it is pinned to another one than that of this worker
local function pinned_elsewhere(run, version)
  return (version or '') ~= ARGV[7] and redis.call('HEXISTS', RUN .. run, 'pinned') == 1 and version
end

-- the release that starts the runs of a pinned function, if this worker has another one: that of the worker which has
-- registered the function last, while there is a live worker of it
local function started_elsewhere(name)
  local release = registered_release(name)
  return release and release ~= ARGV[7] and has_release(name, release, now) and release
end

-- whether this worker has a function in a version that has not left a job; `left_by` is nil if the version does not count
local function has_version(name, left_by)
  if not has_code(name) then return false end
  local release = release_of(left_by)
  if release then return release == ARGV[7] end
  for _, version in ipairs(split_words(left_by or '')) do
    if redis.call('SISMEMBER', CODE .. ARGV[6], 'version ' .. version) == 1 then return false end
  end
  return true
end

-- queue jobs again that workers without their code have left to others, if this worker has it: the first of all lists, at
-- the front, where they were. At the end, workers without their code would often meet them first again.
local function take_from_others(lists)
  local first = {}
  for _, subject in ipairs(redis.call('SMEMBERS', CODE_WAITS)) do
    local list, name, left_by = string.match(subject, '^(.-)\n(.-)\n(.*)$')
    if not list then list, name = string.match(subject, '^(.-)\n(.*)$') end
    if lists[list] and has_version(name, left_by) then
      local jobs = redis.call('ZRANGE', WAIT_LIST .. 'code ' .. subject, 0, limit - 1, 'WITHSCORES')
      for i = 1, #jobs, 2 do
        first[#first + 1] = {job = jobs[i], position = tonumber(jobs[i + 1]), wait_list = 'code ' .. subject}
      end
    end
  end
  table.sort(first, function(a, b) return a.position < b.position end)
  for i = math.min(#first, limit), 1, -1 do
    redis.call('ZREM', WAIT_LIST .. first[i].wait_list, first[i].job)
    promote(first[i].job, first[i].wait_list, now, true)
  end
  for _, subject in ipairs(redis.call('SMEMBERS', CODE_WAITS)) do
    if redis.call('EXISTS', WAIT_LIST .. 'code ' .. subject) == 0 then redis.call('SREM', CODE_WAITS, subject) end
  end
end

local function read_first(run)
  return redis.call('HMGET', RUN .. run, 'event', 'cancel_events', 'finish_ms', 'forked_from', 'pinned')
end

-- a run starts now: set its timers -> its event; false for a fork, of which the worker must load more
local function first_event(run, first)
  if first[2] then redis.call('ZREM', TIMEOUTS, 'start:' .. run) end
  if first[3] then redis.call('ZADD', TIMEOUTS, now + first[3], 'finish:' .. run) end
  return not first[4] and first[1]
end

-- the next fence: the time, or the last fence + 1. So it also exceeds fences that a restarted server has lost.
local function next_fence(last)
  return math.max(tonumber(last or 0) + 1, now)
end

-- the reply for a continuation (see `Lease.parse`). `event` is the run's event if the run starts now. The last two
-- values are there only for a run that undoes its steps, and for one that has continued as new.
local function describe_continuation(job, list, fence, run, event)
  return {job, list, fence, run[2], run[3], tonumber(run[4]), redis.call('LLEN', MEMO_ORDER .. job), run[5] or '', event,
    '', 0, redis.call('HLEN', STEPS .. job), run[6] or run[12], tonumber(run[7] or 0), run[13] or '', run[15],
    run[16] or not run[17] and nil, run[17] or nil}
end

-- the reply for a planned step
local function describe_step(job, list, fence, step, run, owner)
  return {job, list, fence, owner[1], owner[2], tonumber(owner[3]), redis.call('LLEN', MEMO_ORDER .. run), step[4] or '',
    false, step[2], tonumber(step[3] or 0), 0, false, 0, owner[5] or '', owner[6], owner[7] or not owner[8] and nil,
    owner[8] or nil}
end

local function read_continuation(job)
  return redis.call('HMGET', RUN .. job, 'continuation', 'app', 'function', 'attempt', 'deaths', 'parent', 'depth',
    'fence', 'started_at', 'concurrency', 'lease', 'remote_parent', 'version', 'attempt_started_at',
    'heartbeats', 'undoing', 'round')
end

local function read_step(run, key)
  return redis.call('HMGET', STEPS .. run, key .. ':state', key, key .. ':attempt', key .. ':deaths', key .. ':lease')
end

local function read_owner(run)
  return redis.call('HMGET', RUN .. run, 'app', 'function', 'attempt', 'concurrency', 'version', 'heartbeats', 'undoing',
    'round')
end

-- the job of a run that has ended: note it if RQ's tools have requeued it. A job that was left on the list is dropped: the
-- end of its run has set another status.
local function note_requeue(run)
  if redis.call('HGET', RUN .. run, 'status') == 'failed' and redis.call('HGET', RQ_JOB .. run, 'status') == 'queued' then
    redis.call('HSETNX', REQUEUED, run, now)
  end
end

local function claim_continuation(job, list)
  local run = read_continuation(job)
  if run[1] ~= 'queued' then
    if not run[1] then note_requeue(job) end
    return false
  end
  local name = (run[2] or '') .. '/' .. (run[3] or '')
  if not has_code(name) then return leave_to_others(job, job, '', list, name) end
  local first, release = not run[9] and read_first(job), nil
  if first then release = first[5] and started_elsewhere(name) else release = pinned_elsewhere(job, run[13]) end
  if release then return leave_to_release(job, job, '', list, name, release) end
  if (run[10] or pauses[1]) and not may_execute(job, job, '') then return false end
  local fence, event = next_fence(run[8]), false
  local more = {}
  if first then
    event, run[13] = first_event(job, first), ARGV[7]
    more = {'started_at', now}
    if ARGV[7] ~= '' then more = {'started_at', now, 'version', ARGV[7]} end
  elseif run[4] ~= '0' and not run[14] then
    more = {'attempt_started_at', now}
  end
  redis.call('HSET', RUN .. job, 'continuation', 'leased', 'lease', fence, 'fence', fence, 'list', list,
    'owner', worker, 'leased_at', now, 'status', 'running', unpack(more))
  grant_lease(job, list, fence, worker, now, lease_ms)
  return describe_continuation(job, list, fence, run, event)
end

local function claim_step(job, list, run, key)
  local step = read_step(run, key)
  if step[1] ~= 'queued' then return false end
  local owner = read_owner(run)
  local name = (owner[1] or '') .. '/' .. (owner[2] or '')
  if not has_code(name) then return leave_to_others(job, run, key, list, name) end
  local release = pinned_elsewhere(run, owner[5])
  if release then return leave_to_release(job, run, key, list, name, release) end
  if (owner[4] or pauses[1]) and not may_execute(job, run, key) then return false end
  local fence = next_fence(redis.call('HGET', RUN .. run, 'fence'))
  redis.call('HSET', RUN .. run, 'fence', fence)
  redis.call('HSET', STEPS .. run, key .. ':state', 'leased', key .. ':lease', fence, key .. ':owner', worker,
    key .. ':leased_at', now)
  grant_lease(job, list, fence, worker, now, lease_ms)
  return describe_step(job, list, fence, step, run, owner)
end

-- a job of the repeated claim, if the worker still has its lease
local function claim_again(job, list, fence)
  local run, key = split_job(job)
  if key == '' then
    local state = read_continuation(job)
    return state[1] == 'leased' and state[11] == fence
      and describe_continuation(job, list, tonumber(fence), state, false)
  end
  local step = read_step(run, key)
  return step[1] == 'leased' and step[5] == fence
    and describe_step(job, list, tonumber(fence), step, run, read_owner(run))
end

-- whether the first job of the queue's wait list comes before the first job of the list: it has the lower position,
-- which is the run's creation time less its priority
local function wait_list_is_first(list)
  local first = redis.call('ZRANGE', WAIT_LIST .. 'queue ' .. list, 0, 0, 'WITHSCORES')
  local other = first[1] and redis.call('LINDEX', RQ_QUEUE .. list, 0)
  if not other then return first[1] ~= nil end
  return tonumber(first[2]) < tonumber(redis.call('HGET', RUN .. other, 'created_at') or 0)
end

-- the next job of a list, or of the queue's wait list
local function next_job(list, has_wait_list)
  if not (has_wait_list and wait_list_is_first(list)) then return redis.call('LPOP', RQ_QUEUE .. list) end
  local job = redis.call('ZPOPMIN', WAIT_LIST .. 'queue ' .. list)[1]
  if redis.call('HGET', RUN .. job, 'continuation') == 'waitlisted' then
    redis.call('HSET', RUN .. job, 'continuation', 'queued')
  end
  return job
end

-- put the jobs of other programs back: to the front, in their order. If there are more of them than one script passes
-- over, to the end: stepflow's jobs may be behind them.
local function put_back(list, jobs)
  if #jobs == MAX_FOREIGN then
    redis.call('RPUSH', RQ_QUEUE .. list, unpack(jobs))
  else
    for i = #jobs, 1, -1 do redis.call('LPUSH', RQ_QUEUE .. list, jobs[i]) end
  end
end

local claimed, passed, record, last_claim = {}, {}, ARGV[5], redis.call('GET', KEYS[3])
if last_claim and string.match(last_claim, '^%S+') == ARGV[5] then
  for job, list, fence in string.gmatch(last_claim, '\n(%S+) (%S+) (%S+)') do
    claimed[#claimed + 1] = claim_again(job, list, fence) or nil
  end
  return {claimed, passed, {}}
end
local lists, lacked = {}, {}
for i = 8, #ARGV do lists[ARGV[i]] = true end
take_from_others(lists)
for i = 8, #ARGV do
  local list = ARGV[i]
  local has_wait_list, foreign = redis.call('EXISTS', WAIT_LIST .. 'queue ' .. list) == 1, {}
  while #claimed < limit and #foreign < MAX_FOREIGN and not paused['queue ' .. string.gsub(list, ':steps$', '')] do
    if deferred == MAX_DEFERRED then
      redis.call('PUBLISH', READY, list) -- another claim continues
      break
    end
    local job = next_job(list, has_wait_list)
    if not job then break end
    local run, key = split_job(job)
    local lease = key == '' and claim_continuation(job, list) or key ~= '' and claim_step(job, list, run, key)
    if lease then
      claimed[#claimed + 1] = lease
      record = record .. '\n' .. job .. ' ' .. list .. ' ' .. lease[3]
    elseif is_foreign(job) then
      foreign[#foreign + 1] = job
    end
  end
  if foreign[1] then
    put_back(list, foreign)
    passed[#passed + 1] = {list, #foreign}
  end
end
if claimed[1] and ARGV[5] ~= '0' then redis.call('SET', KEYS[3], record, 'PX', lease_ms) end
for name, count in pairs(lacking) do lacked[#lacked + 1] = {name, count} end
return {claimed, passed, lacked}
