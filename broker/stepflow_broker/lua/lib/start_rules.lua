-- start_rules: whether a run may start, and when. What its function's flow control says of it comes as rules, each
-- `kind, name, a, b, c`. First every rule is asked whether it refuses the run; only then each takes what it takes. So a
-- run that is refused has used up nothing, and has displaced nobody.

local REFUSES = {} -- kind -> function(rule, now, displaced) -> the reason, or nothing. They write nothing.
local TAKES = {} -- kind -> function(rule, run, now, fields, displaced) -> when it starts, if later, and why then

local function put(fields, name, value)
  fields[#fields + 1] = name
  fields[#fields + 1] = value
end

-- not at all; `name` says why
function REFUSES.skip(rule)
  return rule.name
end

-- a field of the run, for later
function TAKES.set(rule, _, _, fields)
  put(fields, rule.name, rule.a)
end

-- once in `a` ms for each name
function REFUSES.once(rule)
  return redis.call('EXISTS', IDEMPOTENCY .. rule.name) == 1 and 'duplicate'
end

function TAKES.once(rule, run)
  redis.call('SET', IDEMPOTENCY .. rule.name, run, 'PX', rule.a)
end

-- the live run of a singleton, but for one that this start displaces anyway
local function holder_of(rule, displaced)
  local holder = redis.call('GET', SINGLETON .. rule.name)
  return holder and holder ~= displaced and is_live(holder) and holder
end

-- one at a time, for its whole life; `a` says what gives way: skip (the new one) or cancel (the old one)
function REFUSES.singleton(rule, _, displaced)
  return rule.a == 'skip' and holder_of(rule, displaced) and 'singleton'
end

function TAKES.singleton(rule, run, now, fields, displaced)
  local holder = holder_of(rule, displaced)
  if holder then
    local failure = cancelled_failure('a newer run has taken its place (singleton)')
    cancel_tree(holder, failure, tonumber(rule.b), true, now)
  end
  redis.call('SET', SINGLETON .. rule.name, run)
  put(fields, 'singleton', rule.name)
end

-- at most `a` starts in any `b` ms
function REFUSES.rate(rule, now, displaced)
  local key = RATE .. rule.name
  local count = redis.call('ZCOUNT', key, '(' .. now - rule.b, '+inf')
  if displaced and redis.call('ZSCORE', key, displaced) then count = count - 1 end
  return count >= tonumber(rule.a) and 'rate limited'
end

function TAKES.rate(rule, run, now, fields)
  local key = RATE .. rule.name
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now - rule.b)
  redis.call('ZADD', key, now, run)
  redis.call('PEXPIRE', key, rule.b)
  put(fields, 'rate', rule.name)
end

-- `a` starts in `b` ms, evenly, up to `c` of them at once (the generic cell rate algorithm). When the next would be, were
-- each alone, is kept as ms and a rest in parts of 1 / a ms, so that nothing is lost in many sums
function TAKES.throttle(rule, _, now)
  local key, limit, period = THROTTLE .. rule.name, tonumber(rule.a), tonumber(rule.b)
  local ms, rest = string.match(redis.call('GET', key) or '0 0', '^(%d+) (%d+)$')
  ms, rest = tonumber(ms), tonumber(rest)
  local ahead = period * (rule.c - 1)
  local start = math.ceil(ms - math.floor(ahead / limit) + (rest - ahead % limit) / limit)
  if ms < now then ms, rest = now, 0 end
  ms, rest = ms + math.floor(period / limit), rest + period % limit
  if rest >= limit then ms, rest = ms + 1, rest - limit end
  redis.call('SET', key, ms .. ' ' .. rest, 'PX', ms - now + math.ceil(period / limit))
  if start > now then return start, 'throttled' end
end

-- the run that a debounce still puts off, since when, and its event's time
local function debounced_run(rule, now)
  local last = redis.call('HMGET', DEBOUNCE .. rule.name, 'run', 'since', 'ts', 'due')
  if not last[1] or now > tonumber(last[4]) then return end
  local run = redis.call('HMGET', RUN .. last[1], 'continuation', 'started_at')
  if run[1] ~= 'delayed' or run[2] then return end -- one that has started may wait for its next attempt
  return last[1], tonumber(last[2]), tonumber(last[3])
end

-- the last of those that come within `a` ms of one another, or within `b` ms of the first (0: no bound); `c` is its time
function REFUSES.debounce(rule, now)
  local run, _, ts = debounced_run(rule, now)
  return run and tonumber(rule.c) < ts and 'debounced'
end

function TAKES.debounce(rule, run, now, _, displaced)
  local _, since = debounced_run(rule, now)
  since = since or now
  if displaced and is_live(displaced) then -- a singleton may have cancelled it, as a child of the run that gave way
    local rate = redis.call('HGET', RUN .. displaced, 'rate') -- it will not start, and does not count
    if rate then redis.call('ZREM', RATE .. rate, displaced) end
    end_skipped(displaced, 'debounced', now)
  end
  local due = now + rule.a
  if rule.b ~= '0' then due = math.min(due, since + rule.b) end
  local key = DEBOUNCE .. rule.name
  redis.call('HSET', key, 'run', run, 'since', since, 'ts', rule.c, 'due', due)
  redis.call('PEXPIRE', key, math.max(1, due - now))
  return due, 'debounced'
end

-- an event cancels the run: the one that stands at this index, fulfils the condition `a`, and comes within `b` ms (0: ever)
function TAKES.cancel_on(rule, run, now, fields)
  join_index(rule.name, run .. ':!' .. rule.c)
  put(fields, 'cancel:' .. rule.c, rule.name)
  put(fields, 'condition:' .. rule.c, rule.a)
  if rule.b ~= '0' then put(fields, 'until:' .. rule.c, now + rule.b) end
end

-- cancelled unless its first step is executed within `a` ms
function TAKES.start_within(rule, run, now, fields)
  redis.call('ZADD', TIMEOUTS, now + rule.a, 'start:' .. run)
  put(fields, 'start_within', rule.name)
end

-- cancelled unless it has ended within `a` ms from then on
function TAKES.finish_within(rule, _, _, fields)
  put(fields, 'finish_within', rule.name)
  put(fields, 'finish_ms', rule.a)
end

local MOST_BYTES = 10 * 1024 * 1024 -- of the events of a batch

-- the batch that runs of this name join now, and the bytes of its events; nothing if it takes nobody any more
local function open_batch(name)
  local open = redis.call('HMGET', BATCH .. name, 'run', 'bytes')
  if not open[1] then return end
  local batch = redis.call('HMGET', RUN .. open[1], 'continuation', 'started_at')
  if batch[1] == 'delayed' and not batch[2] then return open[1], tonumber(open[2]) end
end

-- let a batch start now
local function close_batch(rule, batch, now)
  local was = read_run(batch)
  redis.call('DEL', BATCH .. rule.name)
  redis.call('ZREM', TIMEOUTS, 'job:' .. batch)
  redis.call('ZREM', RQ_SCHEDULED .. list_of(was.queue, false), batch)
  requeue_run(batch, was, now)
end

-- the run waits for the batch of its name, which starts with `a` runs, or `b` ms after the first; the run that is the
-- batch is made with its first, has the fields that the rules give, and ends all of them when it ends
local function join_batch(rule, run, app, fn, queue, event, now, more, fields, gated)
  local batch, bytes = open_batch(rule.name)
  if batch and bytes + #event > MOST_BYTES then
    close_batch(rule, batch, now)
    batch = nil
  end
  if not batch then
    batch, bytes = string.sub(run, 1, 4) .. 'b' .. string.sub(run, 5), 0 -- its first digits say where it lives
    put(fields, 'batch', batch)
    put(fields, 'delayed_by', 'collected in a batch')
    create_run(batch, app, fn, queue, event, now, fields, gated, now + rule.b)
  end
  redis.call('HSET', BATCH .. rule.name, 'run', batch, 'bytes', bytes + #event)
  redis.call('PEXPIRE', BATCH .. rule.name, rule.b)
  redis.call('HSET', RUN .. run, 'app', app, 'function', fn, 'queue', queue, 'event', event, 'attempt', 0,
    'created_at', now, 'status', 'waiting', 'continuation', 'batched', 'batch', batch, unpack(more))
  redis.call('ZADD', LIVE, now, run)
  if redis.call('RPUSH', BATCHED .. batch, run) >= tonumber(rule.a) then close_batch(rule, batch, now) end
end

-- the rules that stand in ARGV from a place on: their number, then five words each -> rules, the next place
local function read_rules(at)
  local rules, count = {}, tonumber(ARGV[at])
  for i = at + 1, at + 5 * count, 5 do
    rules[#rules + 1] = {kind = ARGV[i], name = ARGV[i + 1], a = ARGV[i + 2], b = ARGV[i + 3], c = ARGV[i + 4]}
  end
  return rules, at + 1 + 5 * count
end

-- the first reason for which a rule refuses the run; and the run that it displaces if none does
local function refusal_of(rules, now)
  local displaced
  for _, rule in ipairs(rules) do
    if rule.kind == 'debounce' then displaced = debounced_run(rule, now) end
  end
  for _, rule in ipairs(rules) do
    local reason = REFUSES[rule.kind] and REFUSES[rule.kind](rule, now, displaced)
    if reason then return reason end
  end
  return nil, displaced
end

local IN_TURN = {gates = true, priority_ms = true} -- fields of runs that may have to stand in line

-- start a run, now or later, or skip it -> whether it was started
local function start_or_skip(run, app, fn, queue, event, now, more, retention_ms, rules)
  local reason, displaced = refusal_of(rules, now)
  if reason then
    redis.call('HSET', RUN .. run, 'app', app, 'function', fn, 'queue', queue, 'event', event, 'status', 'queued',
      'attempt', 0, 'created_at', now, 'reason', reason, unpack(more))
    end_run(run, read_run(run), 'skipped', 'error', skipped_failure(reason), now, retention_ms)
    return false
  end
  local fields, gated, batch, due, gate = {}, false, nil, nil, nil
  for _, rule in ipairs(rules) do
    local start, why
    if TAKES[rule.kind] then start, why = TAKES[rule.kind](rule, run, now, fields, displaced) end
    if start and start > (due or now) then
      due, gate = start, why
    end
    if rule.kind == 'set' and IN_TURN[rule.name] then gated = true end
    if rule.kind == 'batch' then batch = rule end
  end
  if batch then
    join_batch(batch, run, app, fn, queue, event, now, more, fields, gated)
    return true
  end
  for _, word in ipairs(more) do fields[#fields + 1] = word end
  if gate then put(fields, 'delayed_by', gate) end
  create_run(run, app, fn, queue, event, now, fields, gated, due)
  return true
end
