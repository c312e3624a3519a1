-- invokes: how the end of a child becomes the memo of its parent's step. The first outcome wins, once.
-- See remote_children.lua for children in other partitions.

-- delete an entry of the stream of finished events -> whether it was there
local function ack_entry(entry)
  redis.call('XACK', FINISHED, GROUP, entry)
  return redis.call('XDEL', FINISHED, entry) == 1
end

-- delete the finished event of a child, and start the child's retention
local function ack_finished(child, entry, keep_ms)
  if ack_entry(entry) and keep_ms then expire_run(child, keep_ms) end
end

-- resolve a step by the end of its child -> position, memo, the run before; 0 when the step does not wait for this
-- child
local function resolve_step(run, key, child, status, payload, reason, ended_at)
  local step = redis.call('HMGET', STEPS .. run, key .. ':state', key .. ':child', key .. ':detail')
  if step[1] ~= 'waiting' or step[2] ~= child then return 0 end
  local memo
  if status == 'completed' then
    memo = '{"data":' .. payload .. ',"outcome":"completed"'
  else
    memo = '{"error":' .. payload .. ',"outcome":"' .. status .. '","reason":' .. json_string(reason)
  end
  memo = memo .. ',"ended_at":' .. ended_at .. ',' .. step[3]
  drop_wait(run, key)
  local was = read_run(run)
  local _, position = record_memo(run, was, key, memo)
  return position, memo, was
end

-- resolve the step that waits for an ended child -> position, memo, run, step key, the run before;
-- 0 and '' when no step of this partition waits for the child; nil when an item of a map may wait for it: MAP_ITEMS.resolve
-- has to be called then
local function resolve_by_child(child)
  local state = redis.call('HMGET', RUN .. child, 'parent', 'parent_step', 'status', 'output', 'error', 'reason',
    'finished', 'keep_ms', 'ended_at')
  local run, key, status = state[1], state[2], state[3]
  if not run or LIVE_STATUS[status] then return 0, '' end
  if #key >= 56 then return nil end
  if state[7] then ack_finished(child, state[7], state[8]) end
  local position, memo, was = resolve_step(run, key, child, status, state[4] or state[5], state[6] or '',
    state[9])
  if position == 0 then return 0, '' end
  return position, memo, run, key, was
end
