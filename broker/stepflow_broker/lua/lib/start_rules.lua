-- start_rules: whether a run may start, and when. The function's flow control and cancellation come as rules: a kind, a
-- name, and named fields. First each rule checks whether it refuses the run. Only if none does, each rule is applied.
-- So a refused run has used up no limit, and has replaced no other run.

local MEND = {} -- kind -> function(rule, now): treats what was noted while the clock was ahead as noted now
local CHECK = {} -- kind -> function(rule, now, replaced) -> the reason to skip the run, or nil, and the live run that the
-- caller gets in its place. A check writes nothing.
local APPLY = {} -- kind -> function(rule, run, now, fields, replaced) -> the time at which the run starts if that is
-- later than now, and the reason for the delay. It may add fields to the run.

local LATEST_EVENT_MS = 60000 -- an event that claims to be of a later time counts as of this time from now

local function add_field(fields, name, value)
  fields[#fields + 1] = name
  fields[#fields + 1] = value
end

-- skip: the run is never started. `name` is the reason.
function CHECK.skip(rule)
  return rule.name
end

-- field: the run gets a field, for later transitions
function APPLY.field(rule, _, _, fields)
  add_field(fields, rule.name, rule.value)
end

-- tags: the run is found by its tags. `name` is the packed subjects of their indexes. A run that is skipped has them too.
function APPLY.tags(rule, run, now)
  index_tags(run, rule.name, now)
end

-- idempotency: one start in `period_ms` for each name
function MEND.idempotency(rule)
  local key = IDEMPOTENCY .. rule.name
  if redis.call('PTTL', key) > tonumber(rule.period_ms) then redis.call('PEXPIRE', key, rule.period_ms) end
end

function CHECK.idempotency(rule)
  return redis.call('EXISTS', IDEMPOTENCY .. rule.name) == 1 and 'duplicate'
end

function APPLY.idempotency(rule, run)
  redis.call('SET', IDEMPOTENCY .. rule.name, run, 'PX', rule.period_ms)
end

-- the live run of a singleton, unless this start replaces it anyway
local function live_holder(rule, replaced)
  local holder = redis.call('GET', SINGLETON .. rule.name)
  return holder and holder ~= replaced and is_live(holder) and holder
end

-- singleton: one live run for each name. `mode` says which run gives way: skip (the new one), attach (the new one, whose
-- caller gets the old one) or cancel (the old one).
function CHECK.singleton(rule, _, replaced)
  local holder = rule.mode ~= 'cancel' and live_holder(rule, replaced)
  if holder and rule.mode == 'attach' then return 'attached to ' .. holder, holder end
  return holder and 'singleton'
end

function APPLY.singleton(rule, run, now, fields, replaced)
  local holder = live_holder(rule, replaced)
  if holder then
    local failure = cancelled_failure('a newer run has taken its place (singleton)')
    cancel_tree(holder, failure, tonumber(rule.retention_ms), true, now)
    if is_live(holder) then redis.call('HDEL', RUN .. holder, 'singleton') end -- it undoes its steps beside the new run
  end
  redis.call('SET', SINGLETON .. rule.name, run)
  add_field(fields, 'singleton', rule.name)
end

-- rate: at most `limit` starts in any `period_ms`
function MEND.rate(rule, now)
  shorten(RATE .. rule.name, AHEAD_MS, now, now)
end

function CHECK.rate(rule, now, replaced)
  local key = RATE .. rule.name
  local count = redis.call('ZCOUNT', key, '(' .. now - rule.period_ms, '+inf')
  if replaced and redis.call('ZSCORE', key, replaced) then count = count - 1 end
  return count >= limit_now('rate', rule.name, rule.limit, now) and 'rate limited'
end

function APPLY.rate(rule, run, now, fields)
  local key = RATE .. rule.name
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now - rule.period_ms)
  redis.call('ZADD', key, now, run)
  redis.call('PEXPIRE', key, rule.period_ms)
  add_field(fields, 'rate', rule.name)
end

-- throttle: `limit` starts in `period_ms`, evenly spaced, up to `burst` of them at once (the generic cell rate
-- algorithm). The key stores the theoretical time of the next start, as ms and a rest in parts of 1 / limit ms, so that
-- rounding errors do not add up. A second key has the time of the last start, from which that time counts.
function MEND.throttle(rule, now)
  local noted = redis.call('GET', THROTTLED_AT .. rule.name)
  if not is_ahead(noted, now) then return end
  local ms, rest = string.match(redis.call('GET', THROTTLE .. rule.name) or '0 0', '^(%d+) (%d+)$')
  ms = math.max(0, ms - (noted - now))
  redis.call('SET', THROTTLE .. rule.name, ms .. ' ' .. rest, 'PX', math.max(1, ms - now) + math.ceil(rule.period_ms / rule.limit))
  redis.call('DEL', THROTTLED_AT .. rule.name)
end

function APPLY.throttle(rule, _, now)
  local key, period_ms = THROTTLE .. rule.name, tonumber(rule.period_ms)
  local limit = limit_now('throttle', rule.name, rule.limit, now)
  local ms, rest = string.match(redis.call('GET', key) or '0 0', '^(%d+) (%d+)$')
  ms, rest = tonumber(ms), math.min(tonumber(rest), limit - 1) -- the limit may have been changed
  local ahead = period_ms * (rule.burst - 1)
  local start = math.ceil(ms - math.floor(ahead / limit) + (rest - ahead % limit) / limit)
  if ms < now then ms, rest = now, 0 end
  ms, rest = ms + math.floor(period_ms / limit), rest + period_ms % limit
  if rest >= limit then ms, rest = ms + 1, rest - limit end
  local idle_ms = ms - now + math.ceil(period_ms / limit)
  redis.call('SET', key, ms .. ' ' .. rest, 'PX', idle_ms)
  redis.call('SET', THROTTLED_AT .. rule.name, now, 'PX', idle_ms)
  if start > now then return start, 'throttled' end
end

-- the time of the event of a debounced run. A producer whose clock is ahead must not outdo the events of all others.
local function event_time(ms, now)
  return math.min(tonumber(ms), now + LATEST_EVENT_MS)
end

function MEND.debounce(rule, now)
  local key = DEBOUNCE .. rule.name
  local last = redis.call('HMGET', key, 'since', 'ts', 'due')
  if not is_ahead(last[1], now) then return end
  local due = now + math.max(0, last[3] - last[1])
  redis.call('HSET', key, 'since', now, 'ts', math.min(tonumber(last[2]), now), 'due', due)
  redis.call('PEXPIRE', key, math.max(1, due - now))
end

-- the run that a debounce delays now, the time of the first event, and the time of the run's own event
local function debounced_run(rule, now)
  local last = redis.call('HMGET', DEBOUNCE .. rule.name, 'run', 'since', 'ts', 'due')
  if not last[1] or now > tonumber(last[4]) then return end
  local run = redis.call('HMGET', RUN .. last[1], 'continuation', 'started_at')
  if run[1] ~= 'delayed' or run[2] then return end -- a started run that is delayed waits for a retry
  return last[1], tonumber(last[2]), tonumber(last[3])
end

-- debounce: only the run of the latest event starts, once no event has arrived for `period_ms`, or `timeout_ms` after
-- the first event (0: no bound). `event_ms` is the event's own time.
function CHECK.debounce(rule, now)
  local run, _, ts = debounced_run(rule, now)
  return run and event_time(rule.event_ms, now) < ts and 'debounced'
end

function APPLY.debounce(rule, run, now, _, replaced)
  local _, since = debounced_run(rule, now)
  since = since or now
  if replaced and is_live(replaced) then -- a singleton may have cancelled it, as a child of the run that gave way
    local rate = redis.call('HGET', RUN .. replaced, 'rate') -- a run that never starts does not count
    if rate then redis.call('ZREM', RATE .. rate, replaced) end
    skip_run(replaced, 'debounced', now)
  end
  local due = now + rule.period_ms
  if rule.timeout_ms ~= '0' then due = math.min(due, since + rule.timeout_ms) end
  local key = DEBOUNCE .. rule.name
  redis.call('HSET', key, 'run', run, 'since', since, 'ts', event_time(rule.event_ms, now), 'due', due)
  redis.call('PEXPIRE', key, math.max(1, due - now))
  return due, 'debounced'
end

-- cancel_on: an event cancels the run. `name` is the index of the wait for it, `condition` what a worker must evaluate,
-- `timeout_ms` how long the event counts (0: always), and `number` tells the events of a run apart.
function APPLY.cancel_on(rule, run, now, fields)
  add_wait(rule.name, run .. ':!' .. rule.number)
  add_field(fields, 'cancel:' .. rule.number, rule.name)
  add_field(fields, 'condition:' .. rule.number, rule.condition)
  if rule.timeout_ms ~= '0' then add_field(fields, 'until:' .. rule.number, now + rule.timeout_ms) end
end

-- start_within: the run is cancelled unless its first step is executed within `timeout_ms`. `name` is that time as
-- text.
function APPLY.start_within(rule, run, now, fields)
  redis.call('ZADD', TIMEOUTS, now + rule.timeout_ms, 'start:' .. run)
  add_field(fields, 'start_within', rule.name)
end

-- finish_within: the run is cancelled unless it ends within `timeout_ms` of its start. `name` is that time as text.
function APPLY.finish_within(rule, _, _, fields)
  add_field(fields, 'finish_within', rule.name)
  add_field(fields, 'finish_ms', rule.timeout_ms)
end

local MAX_BATCH_BYTES = 10 * 1024 * 1024 -- of the events of a batch

-- the batch that collects runs of this name, and the bytes of its events; nil if there is none
local function open_batch(name)
  local open = redis.call('HMGET', BATCH .. name, 'run', 'bytes')
  if not open[1] then return end
  local batch = redis.call('HMGET', RUN .. open[1], 'continuation', 'started_at')
  if batch[1] == 'delayed' and not batch[2] then return open[1], tonumber(open[2]) end
end

-- start a batch now
local function start_batch(rule, batch, now)
  local was = read_run(batch)
  redis.call('DEL', BATCH .. rule.name)
  redis.call('ZREM', TIMEOUTS, 'job:' .. batch)
  redis.call('ZREM', RQ_SCHEDULED .. list_of(was.queue, false), batch)
  requeue_run(batch, was, now)
end

-- batch: the run joins the batch of its name. The batch starts when it has `max_size` runs, or `timeout_ms` after its
-- first. It is a run itself, which is created with its first member and has the fields that the rules give. Its members
-- end when it ends.

-- the batch of the name of a rule, with room for the event of a run; it is created if there is none
local function find_batch(rule, run, app, function_id, queue, event, now, fields, may_wait)
  local batch, bytes = open_batch(rule.name)
  if batch and bytes + #event > MAX_BATCH_BYTES then
    start_batch(rule, batch, now)
    batch = nil
  end
  if not batch then
    batch, bytes = string.sub(run, 1, 4) .. 'b' .. string.sub(run, 5), 0 -- the first digits of an id name its partition
    add_field(fields, 'batch', batch)
    add_field(fields, 'delayed_by', 'collected in a batch')
    create_run(batch, app, function_id, queue, event, now, fields, may_wait, now + rule.timeout_ms)
  end
  redis.call('HSET', BATCH .. rule.name, 'run', batch, 'bytes', bytes + #event)
  redis.call('PEXPIRE', BATCH .. rule.name, rule.timeout_ms)
  return batch
end

-- add a run to its batch, which starts if it is full
local function join_batch(rule, run, batch, now)
  if redis.call('RPUSH', BATCHED .. batch, run) >= tonumber(rule.max_size) then start_batch(rule, batch, now) end
end

-- create a run as a member of its batch
local function create_member(rule, run, app, function_id, queue, event, now, more, fields, may_wait)
  local batch = find_batch(rule, run, app, function_id, queue, event, now, fields, may_wait)
  more = {'batch', batch, unpack(more)}
  store_run(run, app, function_id, queue, event, now, 'waiting', 'batched', more)
  join_batch(rule, run, batch, now)
end

-- rules in a list of arguments from an index on -> rules, the index after them. The format: the number of rules, then of
-- each rule its kind, its name, the number of its fields, and each field with its value.
local function parse_rules(args, at)
  local rules, i = {}, at + 1
  for n = 1, tonumber(args[at]) do
    local rule, last = {kind = args[i], name = args[i + 1]}, i + 2 + 2 * args[i + 2]
    for field = i + 3, last, 2 do rule[args[field]] = args[field + 1] end
    rules[n], i = rule, last + 1
  end
  return rules, i
end

-- the rules in ARGV from an index on; see parse_rules
local function read_rules(at)
  return parse_rules(ARGV, at)
end

-- the first reason to skip the run, and the live run that its caller gets; if there is none, nil and the run that it
-- replaces
local function first_refusal(rules, now)
  local replaced
  for _, rule in ipairs(rules) do
    if MEND[rule.kind] then MEND[rule.kind](rule, now) end
    if rule.kind == 'debounce' then replaced = debounced_run(rule, now) end
  end
  for _, rule in ipairs(rules) do
    if CHECK[rule.kind] then
      local reason, live = CHECK[rule.kind](rule, now, replaced)
      if reason then return reason, live end
    end
  end
  return nil, replaced
end

-- the further fields of a run: those that its start gives, and its tags. The run of a batch has none of its members' tags.
local function with_tags(others, rules)
  for _, rule in ipairs(rules) do
    if rule.kind == 'tags' then
      local more = {'indexed', rule.name, unpack(others)}
      return more, rule
    end
  end
  return others
end

local MAY_WAIT = {concurrency = true, priority_ms = true} -- fields of runs whose jobs may need to enter a wait list

-- apply the rules to a run, which none of them refuses -> whether its jobs may need to enter a wait list, its batch, the
-- time at which it starts if that is later than now, and the reason for the delay. `fields` gets the fields of the run.
-- Rules of a kind in `applied` are left out: they were applied before.
local function apply_rules(rules, run, now, fields, replaced, applied)
  local may_wait, batch, due, delayed_by = false, nil, nil, nil
  for _, rule in ipairs(rules) do
    local start, why
    if APPLY[rule.kind] and not (applied and applied[rule.kind]) then
      start, why = APPLY[rule.kind](rule, run, now, fields, replaced)
    end
    if start and start > (due or now) then
      due, delayed_by = start, why
    end
    if rule.kind == 'field' and MAY_WAIT[rule.name] then may_wait = true end
    if rule.kind == 'batch' then batch = rule end
  end
  return may_wait, batch, due, delayed_by
end

-- start a run, now or later, or skip it -> whether it was started, and the live run that its caller gets in its place
local function start_or_skip(run, app, function_id, queue, event, now, more, retention_ms, rules)
  local reason, other = first_refusal(rules, now)
  local tags
  more, tags = with_tags(more, rules)
  if reason then
    redis.call('HSET', RUN .. run, 'app', app, 'function', function_id, 'queue', queue, 'event', event, 'attempt', 0,
      'created_at', now, 'status', 'queued', 'reason', reason, unpack(more))
    index_start(run, app .. '/' .. function_id, now)
    if other then redis.call('HSET', RUN .. run, 'attached_to', other) end
    if tags then APPLY.tags(tags, run, now) end
    end_run(run, read_run(run), 'skipped', 'error', skipped_failure(reason), now, retention_ms)
    return false, other
  end
  local fields = {}
  local may_wait, batch, due, delayed_by = apply_rules(rules, run, now, fields, other)
  if batch then
    create_member(batch, run, app, function_id, queue, event, now, more, fields, may_wait)
    return true
  end
  for _, field in ipairs(more) do fields[#fields + 1] = field end
  if delayed_by then add_field(fields, 'delayed_by', delayed_by) end
  create_run(run, app, function_id, queue, event, now, fields, may_wait, due)
  return true
end
