-- times: what was noted while the clock of the server was ahead. It is treated as noted now, with all that counts from it:
-- a sleep of an hour that began then ends in an hour.

local function move_timer(member, by_ms)
  local due = redis.call('ZSCORE', TIMEOUTS, member)
  if due then redis.call('ZADD', TIMEOUTS, due - by_ms, member) end
end

local function move_delayed(job, list, due, by_ms)
  move_timer('job:' .. job, by_ms)
  redis.call('ZADD', RQ_SCHEDULED .. list, 'XX', math.ceil(due / 1000), job)
end

-- the impossible time at which a run was created, started or delayed; nil: there is none
local function future_of_run(run, now)
  for _, noted in ipairs(redis.call('HMGET', RUN .. run, 'created_at', 'started_at', 'delayed_at')) do
    if is_ahead(noted, now) then return tonumber(noted) end
  end
end

-- the impossible time at which a step began to wait, or to be delayed; nil: there is none
local function future_of_step(run, key, now)
  local began = redis.call('HGET', STEPS .. run, key .. ':began')
  return is_ahead(began, now) and tonumber(began) or nil
end

-- the jobs of a run wait in their wait lists as if the run had been created now, and its cancelling events expire later
local function move_created(run, was, by_ms)
  move_up(run, was, by_ms)
  local steps = redis.call('HGETALL', STEPS .. run)
  for i = 1, #steps, 2 do
    local key = steps[i + 1] == 'waitlisted' and string.match(steps[i], '^(%x+):state$')
    if key then move_up(job_of(run, key), was, by_ms) end
  end
  for n = 0, (was.cancel_events or 0) - 1 do
    local until_ms = redis.call('HGET', RUN .. run, 'until:' .. n)
    if until_ms then redis.call('HSET', RUN .. run, 'until:' .. n, until_ms - by_ms) end
  end
end

-- treat the impossible times of a live run as now
local function mend_run(run, now)
  local was, f = read_run(run), redis.call('HMGET', RUN .. run, 'created_at', 'started_at', 'delayed_at', 'due',
    'due_is_fixed')
  local from = f[3] or not f[2] and f[1] -- the delay of a run that has not started counts from its creation
  if was.continuation == 'delayed' and f[4] and not f[5] and is_ahead(from, now) then
    local due = f[4] - (from - now)
    redis.call('HSET', RUN .. run, 'due', due)
    move_delayed(run, list_of(was.queue, was.started_at), due, from - now)
  end
  if is_ahead(f[3], now) then redis.call('HSET', RUN .. run, 'delayed_at', now) end
  if is_ahead(f[2], now) then
    redis.call('HSET', RUN .. run, 'started_at', now)
    move_timer('finish:' .. run, f[2] - now)
  end
  if is_ahead(f[1], now) then
    redis.call('HSET', RUN .. run, 'created_at', now)
    redis.call('ZADD', LIVE, 'XX', now, run)
    move_start(run, (was.app or '') .. '/' .. (was.function_id or ''), now)
    move_timer('start:' .. run, f[1] - now)
    move_created(run, was, f[1] - now)
  end
end

-- treat the impossible time at which a step began to wait, or to be delayed, as now -> when it is due
local function mend_step(run, key, now)
  local step = redis.call('HMGET', STEPS .. run, key .. ':state', key .. ':began', key .. ':due', key .. ':detail',
    key .. ':child')
  local by_ms = step[2] - now
  local due = step[3] - by_ms
  redis.call('HSET', STEPS .. run, key .. ':began', now, key .. ':due', due)
  if step[1] == 'delayed' then
    move_delayed(job_of(run, key), list_of_step(run, read_run(run), key), due, by_ms)
  elseif step[1] == 'waiting' then
    move_timer('wait:' .. run .. ':' .. key, by_ms)
    if not step[5] then redis.call('SET', TIMEOUT .. run .. ':' .. key, memo_of_time(due, step[4])) end
  end
  return due
end

-- treat the impossible time of a timer as now -> whether it had one
local function mend_timer(member, score, now)
  local kind, subject = string.match(member, '^(%a+):(.*)$')
  if kind == 'resume' then
    if is_ahead(score, now) then redis.call('ZADD', TIMEOUTS, now, member) end
    return is_ahead(score, now)
  end
  if kind == 'event' or kind == 'limit' then return false end -- somebody has named the time
  local run, key = subject, ''
  if kind == 'wait' then
    run, key = string.match(subject, '^(.*):(%x+)$')
  elseif kind == 'job' then
    run, key = split_job(subject)
  end
  if not run then return false end
  local future = key == '' and future_of_run(run, now) or key ~= '' and future_of_step(run, key, now)
  if future and key == '' then mend_run(run, now) elseif future then mend_step(run, key, now) end
  return future and true or false
end
