-- examine_members: look at members of an index: does the truth ask for each? With `repair`, drop those that dangle.
-- Members of kinds that are not known here are left alone: a newer stepflow may have put them there.
-- USES     clock jobs waits state concurrency pauses findings
-- KEYS     1 index
-- ARGV     1 now_ms  2 repair (1 or 0)  3 kind (of the key)  4 subject (of the key)
--          5 own (1: only stepflow writes to it)  6.. members
-- MOVES    promote
-- RETURNS  list of {code, subject, detail, 1 REPAIRED | 0 FOUND}
local now, kind, subject, own = clock(ARGV[1]), ARGV[3], ARGV[4], ARGV[5] == '1'
repairs = ARGV[2] == '1'

local function waits(member)
  local run, key = string.match(member, '^(.*):(%x+)$')
  return not run or redis.call('HGET', STEPS .. run, key .. ':state') == 'waiting'
end

-- whether a run must still start, or end, in time
local function is_bound(run, what)
  local was = read_run(run)
  return was.live and (what == 'finish') == (was.started_at ~= false)
    and redis.call('HEXISTS', RUN .. run, what .. '_within') == 1
end

-- whether an event cancels a run
local function is_cancelled_by(run, n, index)
  return is_live(run) and redis.call('HGET', RUN .. run, 'cancel:' .. n) == index
end

-- kind of timer -> whether the truth asks for it
local TIMERS = {
  job = function(job) return truth_of(job) == 'delayed' end,
  wait = waits,
  start = is_bound,
  finish = is_bound,
}

-- kinds of messages about runs of other partitions
local IN_ADVANCE = {start = true, cancel = true}

-- kind of index -> whether the truth asks for a member
local WANTED = {
  LIVE = is_live,
  ENDED = function(run) return redis.call('EXISTS', RUN .. run) == 1 and not is_live(run) end,
  LEASES = function(job) return truth_of(job) == 'leased' end,
  TIMEOUTS = function(member)
    local what, of = string.match(member, '^(%a+):(.*)$')
    return not TIMERS[what] or TIMERS[what](of, what)
  end,
  CONCURRENCY_SLOTS = function(job)
    local state, _, was = truth_of(job)
    return (state == 'queued' or state == 'leased' or state == 'gated') and has_gate(was, subject)
  end,
  WAIT_LIST = function(job)
    local state, _, was = truth_of(job)
    return state == 'gated' and (has_gate(was, subject) or subject == lines_of(was)[1] or subject == lines_of(was)[2])
  end,
  WAITS = function(member)
    local run, key = string.match(member, '^(.*):(!?%x+)$')
    if not run then return true end
    if string.sub(key, 1, 1) == '!' then return is_cancelled_by(run, string.sub(key, 2), subject) end
    return redis.call('HGET', STEPS .. run, key .. ':index') == subject and waits(member)
  end,
  FINISHED = function(member)
    local entry, run = string.match(member, '^(%S+) (.*)$')
    local found = redis.call('XRANGE', KEYS[1], entry, entry)[1]
    if found and IN_ADVANCE[found[2][1]] then return true end
    return redis.call('HGET', RUN .. run, 'finished') == entry
  end,
  RQ_QUEUE = function(job)
    local state, _, was = truth_of(job)
    if state == 'queued' then return not was.queue or subject == was.queue or subject == list_of(was.queue, true) end
    return not own and not is_ours(job)
  end,
  RQ_WIP = function(member)
    local job, fence = string.match(member, '^(.*):(.-)$')
    if not job then return not own end
    local state, lease = truth_of(job)
    return state == 'leased' and lease == fence or not own and not is_ours(job)
  end,
  RQ_SCHEDULED = function(job) return truth_of(job) == 'delayed' or not own and not is_ours(job) end,
  RQ_FAILED = function(run) return redis.call('HGET', RUN .. run, 'status') == 'failed' or not own and not is_ours(run) end,
}

-- kind of index -> how to see that a member is there, how to drop it
local ZSET = {function(member) return redis.call('ZSCORE', KEYS[1], member) end,
  function(member) redis.call('ZREM', KEYS[1], member) end}
local HOLDS = {
  RQ_QUEUE = {function(job) return redis.call('LPOS', KEYS[1], job) end,
    function(job) redis.call('LREM', KEYS[1], 0, job) end},
  WAITS = {function(member) return redis.call('SISMEMBER', KEYS[1], member) == 1 end,
    function(member) remove_wait(subject, member) end},
  FINISHED = {function(member)
    local entry = string.match(member, '^%S+')
    return redis.call('XRANGE', KEYS[1], entry, entry)[1]
  end, function(member)
    local entry = string.match(member, '^%S+')
    redis.call('XACK', KEYS[1], GROUP, entry)
    redis.call('XDEL', KEYS[1], entry)
  end},
}

-- whether a member goes away by itself: entries of what is over are kept until their time
local function passes(member)
  local limit = kind == 'ENDED' and now + 60000 or kind == 'RQ_FAILED' and now / 1000 + 60
  return limit and tonumber(ZSET[1](member) or 0) <= limit
end

for i = 6, #ARGV do
  local member, holds = ARGV[i], HOLDS[kind] or ZSET
  if not WANTED[kind](member) and not passes(member) and holds[1](member) then
    report('orphaned_' .. string.lower(kind), member, subject, function() holds[2](member) end)
  end
end
-- a line that nobody will move: nobody has a slot, or its function is not paused
local function is_stalled()
  local paused = string.match(subject, '^function (.*)$')
  local resumed = paused and subject or 'key ' .. subject
  if string.match(subject, '^queue ') then return false end -- claims take from it
  if redis.call('ZCARD', KEYS[1]) == 0 or redis.call('ZSCORE', TIMEOUTS, 'resume:' .. resumed) then return false end
  if paused then return not is_paused('function', paused) end
  return not is_paused('key', subject) and redis.call('ZCARD', CONCURRENCY_SLOTS .. subject) == 0
end

local function move_line()
  resume_subject(string.match(subject, '^function ') and subject or 'key ' .. subject, now)
end

if kind == 'CONCURRENCY_SLOTS' and repairs and findings[1] then move_line() end
if kind == 'WAIT_LIST' and is_stalled() then report('wait_list_stalled', subject, '', move_line) end
return findings
