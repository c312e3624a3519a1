-- later_starts: runs that a client has started for a later time.
-- Such a run exists from the call on. What makes it known and lets it be cancelled is applied then: its tags, its fields,
-- and the events that cancel it. Its other rules are stored with it, in its field `start_rules`. They are checked and
-- applied when the run is due.

local AT_THE_CALL = {tags = true, field = true, cancel_on = true, finish_within = true}
local OF_TAGS = {tags = true} -- a member of a batch has no other rule: they are those of the batch

local function kinds_at_the_call(rules)
  for _, rule in ipairs(rules) do
    if rule.kind == 'batch' then return OF_TAGS end
  end
  return AT_THE_CALL
end

-- create a run that starts at a later time. `packed` are its rules as one text; '': it has none. With `is_fixed` the time is that of the
-- call, not so long after the call.
local function start_later(run, app, function_id, queue, event, now, due, is_fixed, more, retention_ms, rules, packed)
  local fields, early = {}, kinds_at_the_call(rules)
  add_field(fields, 'retention_ms', retention_ms)
  more = with_tags(more, rules)
  for _, rule in ipairs(rules) do
    if early[rule.kind] then APPLY[rule.kind](rule, run, rule.kind == 'tags' and now or due, fields) end
  end
  for _, field in ipairs(more) do fields[#fields + 1] = field end
  add_field(fields, 'delayed_by', 'delayed')
  if is_fixed then add_field(fields, 'due_is_fixed', 1) end
  if packed ~= '' then add_field(fields, 'start_rules', packed) end
  create_run(run, app, function_id, queue, event, now, fields, false, due)
end

-- a run that has not started is due: queue it. If a client has started it for this time, its rules may delay it again,
-- skip it, or add it to a batch.
local function begin_run(run, was, now)
  local packed = redis.call('HGET', RUN .. run, 'start_rules')
  if not packed then return queue_run(run, was, now) end
  redis.call('HDEL', RUN .. run, 'start_rules', 'due_is_fixed')
  local rules = parse_rules(unpack_texts(packed), 1)
  local reason, other = first_refusal(rules, now)
  if reason then
    if other then redis.call('HSET', RUN .. run, 'attached_to', other) end
    return skip_run(run, reason, now)
  end
  local fields = {}
  local may_wait, batch, due, delayed_by = apply_rules(rules, run, now, fields, other, kinds_at_the_call(rules))
  if batch then
    local event = redis.call('HGET', RUN .. run, 'event')
    redis.call('DEL', RQ_JOB .. run)
    local id = find_batch(batch, run, was.app, was.function_id, was.queue, event, now, fields, may_wait)
    redis.call('HSET', RUN .. run, 'status', 'waiting', 'continuation', 'batched', 'batch', id)
    return join_batch(batch, run, id, now)
  end
  if fields[1] then redis.call('HSET', RUN .. run, unpack(fields)) end
  if not due then return queue_run(run, read_run(run), now) end
  redis.call('HSET', RUN .. run, 'due', due, 'delayed_at', now, 'delayed_by', delayed_by)
  delay_job(run, list_of(was.queue, false), was.app .. '/' .. was.function_id, now, due)
end
