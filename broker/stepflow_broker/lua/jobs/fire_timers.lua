-- fire_timers: fire the timers that are due.
-- The member names the action: job:<job> queues a delayed job, or starts a run that was started for this time. wait:<run>:<step key> ends the wait for a child, an
-- event or a time. resume:<subject> continues what a pause has stopped. start:<run> and finish:<run> cancel a run that
-- has not started, or ended, in time. event:<id> sends a delayed event. limit:<subject> ends the change of a limit.
-- USES     clock jobs waits state concurrency pauses attempts indexes runs invokes undo cancellation start_rules later_starts delayed_events maps map_items
-- KEYS     1 timeouts
-- ARGV     1 now_ms  2 limit
-- MOVES    run waiting -> queued; continuation delayed -> queued|waitlisted; step delayed -> queued|waitlisted;
--          step waiting -> memo; cancel; begin; end_item
-- RETURNS  {how many timers fired, milliseconds until the next (-1: there is none)}
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if not first[1] then return {0, -1} end
local now = clock(ARGV[1])
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[2])
for _, member in ipairs(due) do
  redis.call('ZREM', KEYS[1], member)
  local kind, subject = string.match(member, '^(%a+):(.*)$')
  if kind == 'job' then
    local run, key = split_job(subject)
    local was = read_run(run)
    if key == '' then
      if was.continuation == 'delayed' then
        redis.call('ZREM', RQ_SCHEDULED .. list_of(was.queue, was.started_at), subject)
        if was.started_at then requeue_run(run, was, now) else begin_run(run, was, now) end
      end
    elseif redis.call('HGET', STEPS .. run, key .. ':state') == 'delayed' then
      requeue_step(run, was, key, now)
    end
  elseif kind == 'wait' then
    local run, key = string.match(subject, '^(.*):(%x+)$')
    local step = redis.call('HMGET', STEPS .. run, key .. ':state', key .. ':child', key .. ':index',
      key .. ':close', key .. ':message')
    if step[1] == 'waiting' then
      local position, memo, was, _ = 0
      if step[2] then position, memo, _, _, was = resolve_by_child(step[2]) end
      if not position then MAP_ITEMS.resolve(step[2], now) end
      if position == 0 then -- no child, a live child, or a remote child: the time is over
        memo, was = redis.call('GET', TIMEOUT .. run .. ':' .. key), read_run(run)
        drop_wait(run, key, step[3])
        end_child_wait(run, was, key, memo, now)
        if step[4] and step[4] ~= 'leave' then cancel_late_child(step[2], step[5], now) end
      elseif position then
        wake_run(run, was, key, position, now, '')
      end
    end
  elseif kind == 'resume' then
    resume_subject(subject, now)
  elseif kind == 'limit' then
    redis.call('HDEL', LIMITS, subject)
    local name = string.match(subject, '^concurrency (.*)$')
    if name then resume_subject('key ' .. name, now) end
  elseif kind == 'event' then
    send_delayed_event(subject)
  else
    cancel_overdue(subject, kind, now)
  end
end
local following = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
return {#due, following[2] and math.max(0, math.ceil(following[2] - now)) or -1}
