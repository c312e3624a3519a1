-- invokes: how a child's end becomes the memo of its parent's step. The first outcome wins, once.

-- a text as JSON
local function quoted(text)
  return '"' .. string.gsub(text, '[%c"\\]', function(c) return string.format('\\u%04x', string.byte(c)) end) .. '"'
end

-- the finished event has been seen to: from now on the child is kept for its retention
local function drop_finished(child, entry, keep_ms)
  redis.call('XACK', FINISHED, GROUP, entry)
  if redis.call('XDEL', FINISHED, entry) == 1 then expire_run(child, keep_ms) end
end

-- resolve the step that waits for an ended child -> position, memo, run, step key, what the run was before;
-- or 0 and '' when no step waits for it any more
local function resolve_by_child(child)
  local state = redis.call('HMGET', RUN .. child, 'parent', 'parent_step', 'status', 'output', 'error', 'reason',
    'finished', 'keep_ms')
  local run, key, status = state[1], state[2], state[3]
  if not run or LIVE_STATUS[status] then return 0, '' end
  if state[7] then drop_finished(child, state[7], state[8]) end
  local step = redis.call('HMGET', STEPS .. run, key .. ':state', key .. ':child', key .. ':detail')
  if step[1] ~= 'waiting' or step[2] ~= child then return 0, '' end
  local memo
  if status == 'completed' then
    memo = '{"data":' .. state[4] .. ',"outcome":"completed",' .. step[3]
  else
    memo = '{"error":' .. state[5] .. ',"outcome":"' .. status .. '","reason":' .. quoted(state[6] or '') .. ','
      .. step[3]
  end
  drop_wait(run, key)
  local was = read_run(run)
  local _, position = record_memo(run, was, key, memo)
  return position, memo, run, key, was
end
