-- examine_keys: look at keys of a kind: does a run ask for each, or do they expire? With `repair`, drop those that dangle.
-- USES     clock jobs state concurrency findings
-- KEYS     1 live (any key of the partition)
-- ARGV     1 now_ms  2 repair (1 or 0)  3 kind  4.. subjects
-- MOVES    none
-- RETURNS  list of {code, subject, detail, 1 REPAIRED | 0 FOUND}
local kind, orphaned = ARGV[3], 'orphaned_' .. string.lower(ARGV[3])
repairs = ARGV[2] == '1'

-- a key of a run
local function of_run(prefix)
  return function(run)
    if redis.call('EXISTS', RUN .. run) == 0 and redis.call('EXISTS', prefix .. run) == 1 then
      report(orphaned, run, '', function() redis.call('DEL', prefix .. run) end)
    end
  end
end

-- a key that always expires
local function expiring(prefix)
  return function(name)
    if redis.call('PTTL', prefix .. name) == -1 then
      report('no_expiry', name, kind, function() redis.call('PEXPIRE', prefix .. name, KEPT_MS) end)
    end
  end
end

-- kind -> the look at a key
local LOOK = {
  MEMOS = of_run(MEMOS),
  MEMO_ORDER = of_run(MEMO_ORDER),
  STEPS = of_run(STEPS),
  IDEMPOTENCY = expiring(IDEMPOTENCY),
  THROTTLE = expiring(THROTTLE),
  DEBOUNCE = expiring(DEBOUNCE),
  BATCH = expiring(BATCH),
  RATE = expiring(RATE),
  EVENT_HISTORY = expiring(EVENT_HISTORY),
  TIMEOUT = function(member)
    local run, key = string.match(member, '^(.*):(%x+)$')
    if run and redis.call('HGET', STEPS .. run, key .. ':state') ~= 'waiting'
      and redis.call('EXISTS', TIMEOUT .. member) == 1 then
      report(orphaned, member, '', function() redis.call('DEL', TIMEOUT .. member) end)
    end
  end,
  RQ_JOB = function(job)
    local state, _, was = truth_of(job)
    if state or redis.call('PTTL', RQ_JOB .. job) ~= -1 or not is_ours(job) then return end
    report(orphaned, job, '', function()
      if was.status == 'failed' then redis.call('PEXPIRE', RQ_JOB .. job, KEPT_MS) else redis.call('DEL', RQ_JOB .. job) end
    end)
  end,
  BATCHED = function(batch)
    local state = redis.call('HMGET', RUN .. batch, 'status', 'finished')
    local unseen = state[2] and redis.call('XRANGE', FINISHED, state[2], state[2])[1]
    if LIVE_STATUS[state[1] or ''] or unseen or redis.call('EXISTS', BATCHED .. batch) == 0 then return end
    report(orphaned, batch, '', function() redis.call('DEL', BATCHED .. batch) end)
  end,
  SINGLETON = function(name)
    local run = redis.call('GET', SINGLETON .. name)
    if run and not (is_live(run) and read_run(run).singleton == name) then
      report(orphaned, name, run, function() redis.call('DEL', SINGLETON .. name) end)
    end
  end,
}

for i = 4, #ARGV do LOOK[kind](ARGV[i]) end
return findings
