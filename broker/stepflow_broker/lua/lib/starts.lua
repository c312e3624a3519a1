-- starts: whether a run may start, and when. What its function's flow control says of it comes as rules, each
-- `kind, name, a, b, c`; they are asked in turn.

-- kind -> function(rule, run, now, fields) -> nil: it may; 'skip', reason; 'later', time
local RULES = {}

local function put(fields, name, value)
  fields[#fields + 1] = name
  fields[#fields + 1] = value
end

-- a field of the run, for later
function RULES.set(rule, _, _, fields)
  put(fields, rule.name, rule.a)
end

-- not at all; `name` says why
function RULES.skip(rule)
  return 'skip', rule.name
end

-- once in `a` ms for each name
function RULES.once(rule, run, _, _)
  if not redis.call('SET', ONCE .. rule.name, run, 'PX', rule.a, 'NX') then return 'skip', 'duplicate' end
end

-- one at a time, for its whole life; `a` says what gives way: skip (the new one) or cancel (the old one)
function RULES.singleton(rule, run, now, fields)
  local holder = redis.call('GET', SINGLETON .. rule.name)
  if holder and is_live(holder) then
    if rule.a == 'skip' then return 'skip', 'singleton' end
    local failure = cancelled_failure('a newer run has taken its place (singleton)')
    cancel_tree(holder, failure, tonumber(rule.b), true, now)
  end
  redis.call('SET', SINGLETON .. rule.name, run)
  put(fields, 'singleton', rule.name)
end

-- at most `a` starts in any `b` ms
function RULES.rate(rule, run, now)
  local key, limit, period_ms = RATE .. rule.name, tonumber(rule.a), tonumber(rule.b)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now - period_ms)
  if redis.call('ZCARD', key) >= limit then return 'skip', 'rate limited' end
  redis.call('ZADD', key, now, run)
  redis.call('PEXPIRE', key, period_ms)
end

-- `a` starts in `b` ms, evenly, up to `c` of them at once (the generic cell rate algorithm)
function RULES.throttle(rule, _, now)
  local key, gap = THROTTLE .. rule.name, rule.b / rule.a
  local due = tonumber(redis.call('GET', key) or 0) -- when the next would be, were each alone
  local start = math.max(now, due - gap * (rule.c - 1))
  due = math.max(due, now) + gap
  redis.call('SET', key, string.format('%.3f', due), 'PX', math.ceil(due - now + gap))
  if start > now then return 'later', math.ceil(start), 'throttled' end
end

-- the last of those that come within `a` ms of one another, or within `b` ms of the first (0: no bound); `c` is its time
function RULES.debounce(rule, run, now)
  local key = DEBOUNCE .. rule.name
  local last = redis.call('HMGET', key, 'run', 'since', 'ts')
  local since = now
  if last[1] and redis.call('HGET', RUN .. last[1], 'continuation') == 'delayed' then
    if tonumber(rule.c) < tonumber(last[3]) then return 'skip', 'debounced' end
    since = tonumber(last[2])
    end_skipped(last[1], 'debounced', now)
  end
  local due = now + rule.a
  if rule.b ~= '0' then due = math.min(due, since + rule.b) end
  redis.call('HSET', key, 'run', run, 'since', since, 'ts', rule.c)
  redis.call('PEXPIRE', key, math.max(1, due - now))
  return 'later', due, 'debounced'
end

-- an event cancels the run: the one that stands at this index, fulfils the condition `a`, and comes within `b` ms (0: ever)
function RULES.cancel_on(rule, run, now, fields)
  join_index(rule.name, run .. ':!' .. rule.c)
  put(fields, 'cancel:' .. rule.c, rule.name)
  put(fields, 'condition:' .. rule.c, rule.a)
  if rule.b ~= '0' then put(fields, 'until:' .. rule.c, now + rule.b) end
end

-- cancelled unless its first step is executed within `a` ms
function RULES.start_within(rule, run, now, fields)
  redis.call('ZADD', TIMEOUTS, now + rule.a, 'start:' .. run)
  put(fields, 'start_within', rule.name)
end

-- cancelled unless it has ended within `a` ms from then on
function RULES.finish_within(rule, _, _, fields)
  put(fields, 'finish_within', rule.name)
  put(fields, 'finish_ms', rule.a)
end

-- the rules that stand in ARGV from a place on: their number, then five words each -> rules, the next place
local function read_rules(at)
  local rules, count = {}, tonumber(ARGV[at])
  for i = at + 1, at + 5 * count, 5 do
    rules[#rules + 1] = {kind = ARGV[i], name = ARGV[i + 1], a = ARGV[i + 2], b = ARGV[i + 3], c = ARGV[i + 4]}
  end
  return rules, at + 1 + 5 * count
end

-- start a run, now or later, or skip it -> whether it was started
local function start_or_skip(run, app, fn, queue, event, now, more, retention_ms, rules)
  local fields, gated, due, gate = {unpack(more)}, false, nil, nil
  for _, rule in ipairs(rules) do
    local verdict, what, why = RULES[rule.kind](rule, run, now, fields)
    if verdict == 'skip' then
      redis.call('HSET', RUN .. run, 'app', app, 'function', fn, 'queue', queue, 'event', event, 'status', 'queued',
        'attempt', 0, 'created_at', now, 'reason', what, unpack(more))
      end_run(run, read_run(run), 'skipped', 'error', skipped_failure(what), now, retention_ms)
      return false
    elseif verdict == 'later' and what > (due or now) then
      due, gate = what, why
    end
    if rule.kind == 'set' and rule.name == 'gates' then gated = true end
  end
  if gate then put(fields, 'delayed_by', gate) end
  create_run(run, app, fn, queue, event, now, fields, gated, due)
  return true
end
