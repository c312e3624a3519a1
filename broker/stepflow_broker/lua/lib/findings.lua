-- findings: what an examination has found, and mended if that was asked for.
-- An examination looks at one thing and all that it must agree with in one script, so a busy server gives no false alarm.

local findings, repairs = {}, false
local KEPT_MS = 86400000 -- for how long what nobody can make sense of is kept

-- note what is wrong; mend it, if that is asked for, by `mend`, which may answer false: not now
local function report(code, subject, detail, mend)
  local mended = repairs and mend and mend() ~= false
  findings[#findings + 1] = {code, subject, tostring(detail or ''), mended and 1 or 0}
end

-- the state that the truth gives to a job (nil: there is to be none), its lease, and the run
local function truth_of(job)
  local run, key = split_job(job)
  local was = read_run(run)
  if not was.live then return nil, nil, was end
  if key == '' then return was.continuation or 'parked', was.lease, was end
  local step = redis.call('HMGET', STEPS .. run, key .. ':state', key .. ':lease')
  return step[1] ~= 'waiting' and step[1] or nil, step[2] or nil, was
end

-- whether a job of RQ is one of stepflow's; other programs may use RQ on the same server
local function is_ours(job)
  if redis.call('EXISTS', RUN .. split_job(job)) == 1 then return true end
  return string.find(redis.call('HGET', RQ_JOB .. job, 'data') or '', '["stepflow_workers.', 1, true) == 1
end

local function has_gate(was, name)
  for _, gate in ipairs(read_limits(was.concurrency)) do
    if gate.name == name then return gate end
  end
end

-- the names of the lines in which a job may stand: those of its gates, and that of its function while it is paused
local function lines_of(was)
  local lines = {'function ' .. was.app .. '/' .. was.function_id, 'queue ' .. was.queue}
  for _, gate in ipairs(read_limits(was.concurrency)) do lines[#lines + 1] = gate.name end
  return lines
end

-- the list that a job waits in, and how RQ's tools describe it
local function place_and_name(job, was)
  local run, key = split_job(job)
  local name = was.app .. '/' .. was.function_id
  if key == '' then return list_of(was.queue, was.started_at), name end
  return list_of(was.queue, true), name .. ': ' .. string.sub(redis.call('HGET', STEPS .. run, key) or key, 1, 100)
end
