-- waits: steps that wait for a child, a time or an event, each with its timeout key.
-- A wait for an event has its place in an index, `<paths>\n<digest of the values>\n<event>`, so that an event meets only
-- the waits whose values it has. Paths '' wait for any event of the name, '?' for one that a worker has to look at.

local function join_index(index, member)
  local paths, _, event = string.match(index, '^(.-)\n(.-)\n(.*)$')
  if redis.call('SADD', WAITS .. index, member) == 1 then redis.call('HINCRBY', WAIT_COUNTS .. event, paths, 1) end
end

local function leave_index(index, member)
  local paths, _, event = string.match(index, '^(.-)\n(.-)\n(.*)$')
  if redis.call('SREM', WAITS .. index, member) == 1 and redis.call('HINCRBY', WAIT_COUNTS .. event, paths, -1) == 0 then
    redis.call('HDEL', WAIT_COUNTS .. event, paths)
  end
end

-- forget what would have ended a run from outside. A run that has any of it has the field `bounds`: how many events
-- cancel it. Event n stands in the index as `<run>:!<n>`, its place there in the run's field `cancel:<n>`; the times by
-- which the run must have started and ended are timers, `start:<run>` and `finish:<run>`.
local function drop_bounds(run, bounds)
  redis.call('ZREM', TIMEOUTS, 'start:' .. run, 'finish:' .. run)
  for n = 0, bounds - 1 do
    local index = redis.call('HGET', RUN .. run, 'cancel:' .. n)
    if index then leave_index(index, run .. ':!' .. n) end
  end
end

-- forget a wait; `index` is its place in the index, if it has one
local function drop_wait(run, key, index)
  local member = run .. ':' .. key
  redis.call('HDEL', STEPS .. run, key, key .. ':state', key .. ':child', key .. ':detail', key .. ':due',
    key .. ':index', key .. ':condition', key .. ':away')
  redis.call('DEL', TIMEOUT .. member)
  redis.call('ZREM', TIMEOUTS, 'wait:' .. member)
  if index then leave_index(index, member) end
end
