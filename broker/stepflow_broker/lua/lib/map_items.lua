-- map_items: the items of maps (see maps.lua) that have not ended, and their ends where they are not the usual ones.

local MAP_ITEMS = {}

-- the items of a map that have not ended, with the fields of each, by key
function MAP_ITEMS.open(run, map)
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
function MAP_ITEMS.drop(run, was, map, m, now)
  for key, item in pairs(MAP_ITEMS.open(run, map)) do
    if item.state and item.state ~= 'leased' then
      drop_step(run, was, key, item)
      drop_planned_step(run, was, key, true)
      release_slots(job_of(run, key), was, now)
      m.open = m.open - 1
    end
  end
end

-- store how an item has ended, once, and hand out the next. A second one is handed out for as long as fewer items are
-- open than may be.
function MAP_ITEMS.end_item(run, was, key, memo, now)
  local map, digest, index = MAPS.of_item(key)
  local m = MAPS.read(run, map)
  if not MAPS.awaits(m, digest, index) then return end
  local was_stopped = MAPS.is_stopped(m)
  if not MAPS.store_end(run, was, map, m, index, memo) then return end
  if MAPS.is_stopped(m) and not was_stopped then MAP_ITEMS.drop(run, was, map, m, now) end
  MAPS.hand_out(run, was, map, m, 2, now, enqueue_or_wait)
end

-- end the job of an item whose child has started: the item waits for the child
function MAP_ITEMS.leave(run, was, key, fence, now)
  local job = job_of(run, key)
  end_lease(job, was, list_of_step(run, was, key), fence, now)
  redis.call('DEL', RQ_JOB .. job)
  drop_planned_step(run, was, key, true)
end

-- end an item that waits for an ended child. The memo of a success has nothing but the result.
function MAP_ITEMS.end_by_child(run, key, child, status, payload, reason, ended_at, now)
  local step = redis.call('HMGET', STEPS .. run, key .. ':state', key .. ':child', key .. ':detail')
  if step[1] ~= 'waiting' or step[2] ~= child then return end
  local memo = '{"data":' .. payload .. '}'
  if status ~= 'completed' then
    memo = '{"error":' .. payload .. ',"outcome":"' .. status .. '","reason":' .. json_string(reason) .. ',"ended_at":'
      .. ended_at .. ',' .. step[3]
  end
  drop_wait(run, key)
  MAP_ITEMS.end_item(run, read_run(run), key, memo, now)
end

-- end the item of this partition that waits for an ended child
function MAP_ITEMS.resolve(child, now)
  local f = redis.call('HMGET', RUN .. child, 'parent', 'parent_step', 'status', 'output', 'error', 'reason', 'finished',
    'keep_ms', 'ended_at')
  if f[7] then ack_finished(child, f[7], f[8]) end
  MAP_ITEMS.end_by_child(f[1], f[2], child, f[3], f[4] or f[5], f[6] or '', f[9], now)
end

-- end a wait that has been dropped, of a step or of an item, with its memo, and continue the run
local function end_child_wait(run, was, key, memo, now)
  if #key >= 56 then return MAP_ITEMS.end_item(run, was, key, memo, now) end
  wake_run(run, was, key, select(2, record_memo(run, was, key, memo)), now, '')
end
