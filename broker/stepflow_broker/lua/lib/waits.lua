-- waits: steps that wait for a child, a time, an event, a signal or an answer, each with its timeout key.
-- A wait for an event is a member of an index, `<paths>\n<digest of the values>\n<event>`. So an event finds only the
-- waits that compare equal values. Waits at paths '' match any event of that name. Waits at '?' have a condition that a
-- worker must evaluate. A wait for a signal has the index `signal\n<number>\n<name>` and is in no set: only its run can
-- receive the signal. A step that waits for an answer has the index `ask` and is a member of ASKS.

local function add_wait(index, member)
  local paths, _, event = string.match(index, '^(.-)\n(.-)\n(.*)$')
  if redis.call('SADD', WAITS .. index, member) == 1 then redis.call('HINCRBY', WAIT_COUNTS .. event, paths, 1) end
end

local function remove_wait(index, member)
  if index == 'ask' then return redis.call('ZREM', ASKS, member) end
  local paths, _, event = string.match(index, '^(.-)\n(.-)\n(.*)$')
  if redis.call('SREM', WAITS .. index, member) == 1 and redis.call('HINCRBY', WAIT_COUNTS .. event, paths, -1) == 0 then
    redis.call('HDEL', WAIT_COUNTS .. event, paths)
  end
end

-- the memo of a wait for anything but a child that ends by its time; `detail` is the rest of the memo
local function memo_of_time(ended_at, detail)
  return '{"data":null,"outcome":"time","ended_at":' .. ended_at .. ',' .. detail
end

-- store a wait of a step until a time, which something else than an event may end before
local function store_wait(run, key, step_id, detail, due, now, index)
  redis.call('HSET', STEPS .. run, key, step_id, key .. ':state', 'waiting', key .. ':detail', detail, key .. ':due', due,
    key .. ':began', now, key .. ':index', index)
  redis.call('SET', TIMEOUT .. run .. ':' .. key, memo_of_time(due, detail))
  redis.call('ZADD', TIMEOUTS, due, 'wait:' .. run .. ':' .. key)
end

-- delete what would cancel a run: events and timers. A run with cancellation rules has the field `cancel_events`: how
-- many events can cancel it. Event n is the member `<run>:!<n>` of the index in the run's field `cancel:<n>`. The times
-- by which the run must start and finish are the timers `start:<run>` and `finish:<run>`.
local function drop_cancellation(run, cancel_events)
  redis.call('ZREM', TIMEOUTS, 'start:' .. run, 'finish:' .. run)
  for n = 0, cancel_events - 1 do
    local index = redis.call('HGET', RUN .. run, 'cancel:' .. n)
    if index then remove_wait(index, run .. ':!' .. n) end
  end
end

-- delete a wait; `index` is the index of a wait for an event, a signal or an answer
local function drop_wait(run, key, index)
  local member = run .. ':' .. key
  redis.call('HDEL', STEPS .. run, key, key .. ':state', key .. ':child', key .. ':detail', key .. ':due',
    key .. ':began', key .. ':index', key .. ':condition', key .. ':since', key .. ':lookback', key .. ':message',
    key .. ':close')
  redis.call('DEL', TIMEOUT .. member)
  redis.call('ZREM', TIMEOUTS, 'wait:' .. member)
  if index then remove_wait(index, member) end
end
