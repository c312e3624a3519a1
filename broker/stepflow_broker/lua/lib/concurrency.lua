-- concurrency: how many jobs of a kind may be executed at once. A run's field `gates` names its gates, each with its limit.
-- A job that passes has a slot at each: a member of a zset, with the time at which it lapses, so that a crash leaks none.
-- A job that finds no slot stands in the gate's line, older runs first, and gets the next slot in the script that frees it.
-- Gates are passed one after the other, those of one function before those that functions share: whoever stands in line
-- at the second keeps its slot at the first. So a tenant has no more jobs in a shared line than slots of its own.

-- A gate that is paused lets nobody pass. The jobs of a paused function stand in a line of its own. New runs that have a
-- priority, and no gates, stand in the line of their queue, from which claim_jobs takes them in their turn.

local RESERVED_MS = 60000 -- how long a job on a queue keeps its slots

-- `gates`, as `<limit> <length of the name> <name>` again and again -> list of {name, limit}
local function read_gates(text)
  local gates, at = {}, 1
  text = text or ''
  while at <= #text do
    local limit, size, first = string.match(text, '^(%d+) (%d+) ()', at)
    gates[#gates + 1] = {name = string.sub(text, first, first + size - 1), limit = tonumber(limit)}
    at = first + size
  end
  return gates
end

local open_gate -- see below

local function is_paused(kind, name)
  return redis.call('HEXISTS', PAUSED, kind .. ' ' .. name) == 1
end

-- whether a job may have a slot at a gate: it has one, or one is free; those who stand in line come first
local function has_room(gate, job, now, in_turn)
  if is_paused('key', gate.name) then return false end
  local slots = CONCURRENCY_SLOTS .. gate.name
  if redis.call('ZSCORE', slots, job) then return true end
  if not in_turn then open_gate(gate, now) end -- slots may have lapsed
  return redis.call('ZCARD', slots) < gate.limit
end

-- a job's place in line: those of started runs first, then by the time of the start, earlier for priority; of those
-- that start in the same ms, the one that came first
local function wait_position(run, was)
  local priority_ms = redis.call('HGET', RUN .. run, 'priority_ms') or 0
  return (was.started_at and -1e12 or 0) + was.created_at - priority_ms + redis.call('INCR', WAIT_LIST_SEQ) % 4000 / 4000
end

-- keep a job's slots until a later time -> whether it has them all; one that had lapsed may have been given to another
local function keep_slots(job, was, until_ms)
  local has_all = true
  for _, gate in ipairs(read_gates(was.gates)) do
    local has = redis.call('ZSCORE', CONCURRENCY_SLOTS .. gate.name, job)
    if has then redis.call('ZADD', CONCURRENCY_SLOTS .. gate.name, until_ms, job) end
    has_all = has_all and has
  end
  return has_all
end

-- take a slot at each gate in turn -> the first that has none; the slots before it are kept for as long as it takes
local function take_slots(job, was, now, until_ms, in_turn)
  local gates, last, full = read_gates(was.gates), 0, nil
  for n, gate in ipairs(gates) do
    if not has_room(gate, job, now, in_turn == gate.name) then
      full = gate
      break
    end
    redis.call('ZADD', CONCURRENCY_SLOTS .. gate.name, until_ms, job)
    last = n
  end
  for n = 1, full and last or 0 do redis.call('ZADD', CONCURRENCY_SLOTS .. gates[n].name, '+inf', job) end
  return full
end

-- the line that a job has to stand in now, if any
local function line_for(job, run, was, list, now, in_turn)
  if was.gates then
    local gate = take_slots(job, was, now, now + RESERVED_MS, in_turn)
    return gate and gate.name
  end
  if not was.started_at and redis.call('HEXISTS', RUN .. run, 'priority_ms') == 1 then return 'queue ' .. list end
end

-- put a job on its list, or in the line in which it has to stand -> its state: queued or gated
local function admit(job, run, was, list, description, now, again, in_turn)
  local line = line_for(job, run, was, list, now, in_turn)
  if not line then
    push_job(job, list, description, now, again)
    return 'queued'
  end
  describe_job(job, list, 'deferred', description, now)
  redis.call('ZADD', WAIT_LIST .. line, wait_position(run, was), job)
  if line == 'queue ' .. list and redis.call('ZCARD', WAIT_LIST .. line) == 1 then redis.call('PUBLISH', READY, list) end
  return 'gated'
end

-- put a job that stood in a line, and is now the first of it, on its list, or in the next line
local function call_up(job, line, now)
  local run, key = split_job(job)
  local was = read_run(run)
  local name = was.live and was.app .. '/' .. was.fn
  if key == '' and was.continuation == 'gated' then
    local state = admit(job, run, was, list_of(was.queue, was.started_at), name, now, false, line)
    redis.call('HSET', RUN .. run, 'continuation', state)
  elseif was.live and redis.call('HGET', STEPS .. run, key .. ':state') == 'gated' then
    local id = redis.call('HGET', STEPS .. run, key)
    local description = name .. ': ' .. string.sub(id, 1, 100)
    local state = admit(job, run, was, list_of(was.queue, true), description, now, false, line)
    redis.call('HSET', STEPS .. run, key .. ':state', state)
  end
end

-- give the free slots of a gate to those who stand in line
function open_gate(gate, now)
  redis.call('ZREMRANGEBYSCORE', CONCURRENCY_SLOTS .. gate.name, '-inf', now)
  if is_paused('key', gate.name) then return end
  while redis.call('ZCARD', CONCURRENCY_SLOTS .. gate.name) < gate.limit do
    local job = redis.call('ZPOPMIN', WAIT_LIST .. gate.name)[1]
    if not job then return end
    call_up(job, gate.name, now)
  end
end

-- put a job that was taken off its list in a line
local function put_aside(job, run, key, was, line)
  redis.call('ZREM', CONCURRENCY_SLOTS .. line, job)
  redis.call('ZADD', WAIT_LIST .. line, wait_position(run, was), job)
  redis.call('HSET', RQ_JOB .. job, 'status', 'deferred')
  redis.call('HSET', key == '' and RUN .. run or STEPS .. run, key == '' and 'continuation' or key .. ':state', 'gated')
end

local function leave_lines(job, was)
  redis.call('ZREM', WAIT_LIST .. 'function ' .. was.app .. '/' .. was.fn, job)
  redis.call('ZREM', WAIT_LIST .. 'queue ' .. was.queue, job)
  for _, gate in ipairs(read_gates(was.gates)) do redis.call('ZREM', WAIT_LIST .. gate.name, job) end
end

-- free a job's slots, and give them to those who stand in line
local function free_slots(job, was, now)
  for _, gate in ipairs(read_gates(was.gates)) do
    redis.call('ZREM', CONCURRENCY_SLOTS .. gate.name, job)
    open_gate(gate, now)
  end
end
