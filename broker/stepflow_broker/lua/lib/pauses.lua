-- pauses: how deferred jobs continue after a pause.

local MAX_RESUMED = 100 -- jobs of a resumed function, in one script

-- a concurrency limit, as the run of a job in its wait list names it
local function limit_of(job, name)
  for _, limit in ipairs(read_limits(read_run((split_job(job))).concurrency)) do
    if limit.name == name then return limit end
  end
end

-- continue what a pause has stopped. A timer continues what is over the maximum of one script.
local function resume_subject(subject, now)
  local kind, name = string.match(subject, '^(%a+) (.*)$')
  if is_paused(kind, name) then return end
  if kind == 'queue' then
    for _, started in ipairs({true, false}) do redis.call('PUBLISH', READY, list_of(name, started)) end
  elseif kind == 'key' then
    local first = redis.call('ZRANGE', WAIT_LIST .. name, 0, 0)[1]
    local limit = first and limit_of(first, name)
    if limit then fill_slots(limit, now) end
  else
    local jobs = redis.call('ZPOPMIN', WAIT_LIST .. subject, MAX_RESUMED)
    for i = 1, #jobs, 2 do promote(jobs[i], subject, now) end
    if redis.call('EXISTS', WAIT_LIST .. subject) == 1 then redis.call('ZADD', TIMEOUTS, now, 'resume:' .. subject) end
  end
end
