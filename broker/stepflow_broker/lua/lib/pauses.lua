-- pauses: how what was put aside goes on.

local CALLED_UP = 100 -- jobs of a function that is resumed, in one script

-- a gate as it stands in the run of a job in its line
local function gate_of(job, name)
  for _, gate in ipairs(read_gates(read_run((split_job(job))).gates)) do
    if gate.name == name then return gate end
  end
end

-- let what a pause has held up go on; what it does not come to now comes with the next timer
local function go_on(subject, now)
  local kind, name = string.match(subject, '^(%a+) (.*)$')
  if is_paused(kind, name) then return end
  if kind == 'queue' then
    for _, started in ipairs({true, false}) do redis.call('PUBLISH', READY, list_of(name, started)) end
  elseif kind == 'key' then
    local first = redis.call('ZRANGE', WAIT_LIST .. name, 0, 0)[1]
    local gate = first and gate_of(first, name)
    if gate then open_gate(gate, now) end
  else
    local jobs = redis.call('ZPOPMIN', WAIT_LIST .. subject, CALLED_UP)
    for i = 1, #jobs, 2 do call_up(jobs[i], subject, now) end
    if redis.call('EXISTS', WAIT_LIST .. subject) == 1 then redis.call('ZADD', TIMEOUTS, now, 'resume:' .. subject) end
  end
end
