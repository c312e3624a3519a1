-- claim_jobs: lease ready jobs to a worker, those of started runs before those of new ones, older runs first.
-- A job whose run or step no longer wants it is dropped from its list, one whose function is paused is put aside.
-- Nothing is claimed while RQ is suspended, or from a queue that is paused. The last claim of a worker, sent again because
-- its reply was lost, is given the same jobs.
-- USES     clock jobs state concurrency
-- KEYS     1 suspended  2 paused  3 claimed
-- ARGV     1 now_ms  2 worker  3 limit  4 lease_ms  5 claim (a number of the worker's own; 0: any)  6.. lists, in order
-- MOVES    run queued -> running; continuation queued -> leased|gated; step queued -> leased|gated; promote
-- RETURNS  list of jobs, 0 SUSPENDED
local now, worker, limit, lease_ms = clock(ARGV[1]), ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
local MOST_ASIDE = 500 -- jobs put aside in one script
local paused, aside, any = {}, 0, redis.call('HKEYS', KEYS[2])
for _, subject in ipairs(any) do paused[subject] = true end

-- whether a job's slots, which may have lapsed on the queue, let it be executed; if not, it stands in line again
local function may_pass(job, run, key)
  local was = read_run(run)
  local line = 'function ' .. was.app .. '/' .. was.fn
  if paused[line] then
    free_slots(job, was, now)
    aside = aside + 1
  else
    local gate = was.gates and take_slots(job, was, now, now + lease_ms)
    if not gate then return true end
    line = gate.name
  end
  put_aside(job, run, key, was, line)
  return false
end

-- the run starts now -> its event
local function first_event(run)
  local first = redis.call('HMGET', RUN .. run, 'event', 'bounds', 'finish_ms')
  if first[2] then redis.call('ZREM', TIMEOUTS, 'start:' .. run) end
  if first[3] then redis.call('ZADD', TIMEOUTS, now + first[3], 'finish:' .. run) end
  return first[1]
end

-- the time, if that is more than the last: so it grows also beyond fences that the server has granted and lost
local function next_fence(last)
  return math.max(tonumber(last or 0) + 1, now)
end

-- what a worker is told of a continuation; `event` if it has just begun
local function describe_continuation(job, list, fence, run, event)
  return {job, list, fence, run[2], run[3], tonumber(run[4]), redis.call('LLEN', MEMO_ORDER .. job), run[5] or '', event, '', 0,
    redis.call('HLEN', STEPS .. job), run[6] or run[12], tonumber(run[7] or 0)}
end

-- what a worker is told of a planned step
local function describe_step(job, list, fence, step, run, owner)
  return {job, list, fence, owner[1], owner[2], tonumber(owner[3]), redis.call('LLEN', MEMO_ORDER .. run), step[4] or '', false,
    step[2], tonumber(step[3] or 0), 0, false, 0}
end

local function read_continuation(job)
  return redis.call('HMGET', RUN .. job, 'continuation', 'app', 'function', 'attempt', 'deaths', 'parent', 'depth',
    'fence', 'started_at', 'gates', 'lease', 'away_parent')
end

local function read_step(run, key)
  return redis.call('HMGET', STEPS .. run, key .. ':state', key, key .. ':attempt', key .. ':deaths', key .. ':lease')
end

local function read_owner(run)
  return redis.call('HMGET', RUN .. run, 'app', 'function', 'attempt', 'gates')
end

local function claim_continuation(job, list)
  local run = read_continuation(job)
  if run[1] ~= 'queued' then return false end
  if (run[10] or any[1]) and not may_pass(job, job, '') then return false end
  local fence, event = next_fence(run[8]), false
  redis.call('HSET', RUN .. job, 'continuation', 'leased', 'lease', fence, 'fence', fence, 'list', list,
    'owner', worker, 'status', 'running', 'started_at', run[9] or now)
  if not run[9] then event = first_event(job) end
  grant_lease(job, list, fence, worker, now, lease_ms)
  return describe_continuation(job, list, fence, run, event)
end

local function claim_step(job, list, run, key)
  local step = read_step(run, key)
  if step[1] ~= 'queued' then return false end
  local owner = read_owner(run)
  if (owner[4] or any[1]) and not may_pass(job, run, key) then return false end
  local fence = next_fence(redis.call('HGET', RUN .. run, 'fence'))
  redis.call('HSET', RUN .. run, 'fence', fence)
  redis.call('HSET', STEPS .. run, key .. ':state', 'leased', key .. ':lease', fence, key .. ':owner', worker)
  grant_lease(job, list, fence, worker, now, lease_ms)
  return describe_step(job, list, fence, step, run, owner)
end

-- a job of the claim before, if the worker has it still
local function claim_again(job, list, fence)
  local run, key = split_job(job)
  if key == '' then
    local state = read_continuation(job)
    return state[1] == 'leased' and state[11] == fence and describe_continuation(job, list, tonumber(fence), state, false)
  end
  local step = read_step(run, key)
  return step[1] == 'leased' and step[5] == fence and describe_step(job, list, tonumber(fence), step, run, read_owner(run))
end

-- whether the first in the queue's line comes before the first on the list; so older ones go first, but for priority
local function line_is_first(list)
  local first = redis.call('ZRANGE', WAIT_LIST .. 'queue ' .. list, 0, 0, 'WITHSCORES')
  local other = first[1] and redis.call('LINDEX', RQ_QUEUE .. list, 0)
  if not other then return first[1] ~= nil end
  return tonumber(first[2]) < tonumber(redis.call('HGET', RUN .. other, 'created_at') or 0)
end

-- the next job of a list, or of the line beside it
local function next_job(list, has_line)
  if not (has_line and line_is_first(list)) then return redis.call('LPOP', RQ_QUEUE .. list) end
  local job = redis.call('ZPOPMIN', WAIT_LIST .. 'queue ' .. list)[1]
  if redis.call('HGET', RUN .. job, 'continuation') == 'gated' then
    redis.call('HSET', RUN .. job, 'continuation', 'queued')
  end
  return job
end

local claimed, note, before = {}, ARGV[5], redis.call('GET', KEYS[3])
if before and string.match(before, '^%S+') == ARGV[5] then
  for job, list, fence in string.gmatch(before, '\n(%S+) (%S+) (%S+)') do
    claimed[#claimed + 1] = claim_again(job, list, fence) or nil
  end
  return claimed
end
for i = 6, #ARGV do
  local list = ARGV[i]
  local has_line = redis.call('EXISTS', WAIT_LIST .. 'queue ' .. list) == 1
  while #claimed < limit and not paused['queue ' .. string.gsub(list, ':steps$', '')] do
    if aside == MOST_ASIDE then
      redis.call('PUBLISH', READY, list) -- for the rest
      break
    end
    local job = next_job(list, has_line)
    if not job then break end
    local run, key = split_job(job)
    local lease = key == '' and claim_continuation(job, list) or key ~= '' and claim_step(job, list, run, key)
    if lease then
      claimed[#claimed + 1] = lease
      note = note .. '\n' .. job .. ' ' .. list .. ' ' .. lease[3]
    end
  end
end
if claimed[1] and ARGV[5] ~= '0' then redis.call('SET', KEYS[3], note, 'PX', lease_ms) end
return claimed
