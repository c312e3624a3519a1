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

-- give an item that has not ended a job, unless it has one: it was executing when the code cancelled the map
function MAPS.plan_item(run, was, map, m, index, now)
  local key = map .. m.digest .. string.format('%08x', index)
  if redis.call('HEXISTS', STEPS .. run, key .. ':state') == 1 then return end
  local id = m.id .. '[' .. index .. ']'
  local description = was.app .. '/' .. was.function_id .. ': ' .. string.sub(id, 1, 100)
  local state = enqueue_or_wait(job_of(run, key), run, was, list_of(m.queue or was.queue, true), description, now)
  redis.call('HSET', STEPS .. run, key, id, key .. ':state', state)
  if m.queue then redis.call('HSET', STEPS .. run, key .. ':queue', m.queue) end
end

-- hand out the next items, at most `most`. If all have ended, the map gets its job.
function MAPS.hand_out(run, was, key, m, most, now)
  local state = m.state
  while most > 0 and m.next < m.count and m.open < m.at_once and not MAPS.is_stopped(m) do
    MAPS.plan_item(run, was, key, m, m.next, now)
    m.open, m.next, most = m.open + 1, m.next + 1, most - 1
  end
  if m.open == 0 and (m.next == m.count or MAPS.is_stopped(m)) then
    local description = was.app .. '/' .. was.function_id .. ': ' .. string.sub(m.id, 1, 100)
    state = enqueue_or_wait(job_of(run, key), run, was, list_of(m.queue or was.queue, true), description, now)
  end
  redis.call('HSET', STEPS .. run, key .. ':state', state, key .. ':next', m.next, key .. ':open', m.open,
    key .. ':failed', m.failed, key .. ':bytes', m.bytes)
end

-- the items of a map that have not ended, with the fields of each, by key
function MAPS.items(run, map)
  local items, size = {}, #map
  for field, value in pairs(read_steps(run)) do
    local key, name = string.match(field, '^(%x+):(%a+)$')
    if key and #key == size + 16 and string.sub(key, 1, size) == map then
      items[key] = items[key] or {}
      items[key][name] = value
    end
  end
  return items
end

-- take the jobs and the waits of the items that no worker executes, of a map that is stopped. Their children continue.
function MAPS.drop_items(run, was, map, m, now)
  for key, item in pairs(MAPS.items(run, map)) do
    if item.state and item.state ~= 'leased' then
      drop_step(run, was, key, item)
      drop_planned_step(run, was, key, true)
      release_slots(job_of(run, key), was, now)
      m.open = m.open - 1
    end
  end
end

-- store how an item has ended, once, and hand out the next. A second one is handed out for as long as fewer items are
-- open than may be. An item that was executing when the code cancelled its map has no result, also if the map has begun
-- again.
function MAPS.end_item(run, was, key, memo, now)
  local map, digest, index = MAPS.of_item(key)
  local m = MAPS.read(run, map)
  if not m or m.state ~= 'mapping' or m.digest ~= digest or index >= m.next then return end
  if redis.call('HSETNX', ITEMS .. run .. ':' .. map, index, memo) == 0 then return end
  if was.deaths then redis.call('HDEL', RUN .. run, 'deaths') end
  local was_stopped = MAPS.is_stopped(m)
  m.open, m.bytes = m.open - 1, m.bytes + #memo
  if string.sub(memo, 1, 9) == '{"error":' then m.failed = m.failed + 1 end
  if MAPS.is_stopped(m) and not was_stopped then MAPS.drop_items(run, was, map, m, now) end
  MAPS.hand_out(run, was, map, m, 2, now)
end

-- end the job of an item whose child has started: the item waits for the child
function MAPS.leave_item(run, was, key, fence, now)
  local job = job_of(run, key)
  end_lease(job, was, list_of_step(run, was, key), fence, now)
  redis.call('DEL', RQ_JOB .. job)
  drop_planned_step(run, was, key, true)
end

-- end an item that waits for an ended child. The memo of a success has nothing but the result.
function MAPS.end_by_child(run, key, child, status, payload, reason, ended_at, now)
  local step = redis.call('HMGET', STEPS .. run, key .. ':state', key .. ':child', key .. ':detail')
  if step[1] ~= 'waiting' or step[2] ~= child then return end
  local memo = '{"data":' .. payload .. '}'
  if status ~= 'completed' then
    memo = '{"error":' .. payload .. ',"outcome":"' .. status .. '","reason":' .. json_string(reason) .. ',"ended_at":'
      .. ended_at .. ',' .. step[3]
  end
  drop_wait(run, key)
  MAPS.end_item(run, read_run(run), key, memo, now)
end

-- end the item of this partition that waits for an ended child
function MAPS.resolve_item(child, now)
  local f = redis.call('HMGET', RUN .. child, 'parent', 'parent_step', 'status', 'output', 'error', 'reason', 'finished',
    'keep_ms', 'ended_at')
  if f[7] then ack_finished(child, f[7], f[8]) end
  MAPS.end_by_child(f[1], f[2], child, f[3], f[4] or f[5], f[6] or '', f[9], now)
end

-- end a wait that has been dropped, of a step or of an item, with its memo, and continue the run
local function end_child_wait(run, was, key, memo, now)
  if #key >= 56 then return MAPS.end_item(run, was, key, memo, now) end
  wake_run(run, was, key, select(2, record_memo(run, was, key, memo)), now, '')
end
