-- maps: steps that call a handler, or a function, for each of many items.
-- An item is a step with a job of its own. Its key is that of the map, with 16 more hex digits: the first 8 of the digest
-- of all items, and 8 of its index. Only items have keys of 56 digits or more: the key of a step has 40, and those of
-- its round. So a job of an item always is of the items with which its map began. The result of an
-- item goes to ITEMS, not to the memos of the run, and its end hands out the next item. When all items have ended, the
-- map itself gets a job. It collects the results: its memo has them all.

local MAPS = {} -- a table, because Lua allows 200 local names in a script

-- the key of the map of an item, the digest of all items, and the index of the item
function MAPS.of_item(key)
  return string.sub(key, 1, -17), string.sub(key, -16, -9), tonumber(string.sub(key, -8), 16)
end

-- a map that has not ended; nil: there is none. `open`: how many items have been handed out and have not ended
function MAPS.read(run, key)
  local f = redis.call('HMGET', STEPS .. run, key, key .. ':state', key .. ':count', key .. ':next', key .. ':open',
    key .. ':failed', key .. ':tolerated', key .. ':at_once', key .. ':bytes', key .. ':room', key .. ':digest',
    key .. ':queue')
  if not f[3] then return nil end
  return {id = f[1], state = f[2], count = tonumber(f[3]), next = tonumber(f[4]), open = tonumber(f[5]),
    failed = tonumber(f[6]), tolerated = tonumber(f[7]), at_once = tonumber(f[8]), bytes = tonumber(f[9]),
    room = tonumber(f[10]), digest = f[11], queue = f[12]}
end

-- whether a map hands out no further item: too many have failed, or the results are too large
function MAPS.is_stopped(m)
  return m.failed > m.tolerated or m.bytes > m.room
end

-- give an item that has not ended a job, unless it has one: it was executing when the code cancelled the map. `enqueue`
-- is enqueue_or_wait, or does the same for a run without concurrency limits.
function MAPS.plan_item(run, was, map, m, index, now, enqueue)
  local key = map .. m.digest .. string.format('%08x', index)
  if redis.call('HEXISTS', STEPS .. run, key .. ':state') == 1 then return end
  local id = m.id .. '[' .. index .. ']'
  local description = was.app .. '/' .. was.function_id .. ': ' .. string.sub(id, 1, 100)
  local state = enqueue(job_of(run, key), run, was, list_of(m.queue or was.queue, true), description, now)
  redis.call('HSET', STEPS .. run, key, id, key .. ':state', state)
  if m.queue then redis.call('HSET', STEPS .. run, key .. ':queue', m.queue) end
end

-- hand out the next items, at most `most`. If all have ended, the map gets its job.
function MAPS.hand_out(run, was, key, m, most, now, enqueue)
  local state = m.state
  while most > 0 and m.next < m.count and m.open < m.at_once and not MAPS.is_stopped(m) do
    MAPS.plan_item(run, was, key, m, m.next, now, enqueue)
    m.open, m.next, most = m.open + 1, m.next + 1, most - 1
  end
  if m.open == 0 and (m.next == m.count or MAPS.is_stopped(m)) then
    local description = was.app .. '/' .. was.function_id .. ': ' .. string.sub(m.id, 1, 100)
    state = enqueue(job_of(run, key), run, was, list_of(m.queue or was.queue, true), description, now)
  end
  redis.call('HSET', STEPS .. run, key .. ':state', state, key .. ':next', m.next, key .. ':open', m.open,
    key .. ':failed', m.failed, key .. ':bytes', m.bytes)
end

-- whether a memo is that of a failure
function MAPS.is_failure(memo)
  return string.sub(memo, 1, 9) == '{"error":'
end

-- whether the end of an item would stop its map, or the map is stopped
function MAPS.is_stopped_by(m, memo)
  return m.bytes + #memo > m.room or m.failed + (MAPS.is_failure(memo) and 1 or 0) > m.tolerated
end

-- whether an item can end: an item that was executing when the code cancelled its map has no result, also if the map has
-- begun again
function MAPS.awaits(m, digest, index)
  return m and m.state == 'mapping' and m.digest == digest and index < m.next
end

-- store how an item has ended, once -> whether this is the first end
function MAPS.store_end(run, was, map, m, index, memo)
  if redis.call('HSETNX', ITEMS .. run .. ':' .. map, index, memo) == 0 then return false end
  if was.deaths then redis.call('HDEL', RUN .. run, 'deaths') end
  m.open, m.bytes = m.open - 1, m.bytes + #memo
  if MAPS.is_failure(memo) then m.failed = m.failed + 1 end
  return true
end
