-- events: how an event that has come ends the waits for it.

-- give an event to a step that waits for it, once -> whether it was given
local function give_event(member, event, now)
  local run, key = string.match(member, '^(.*):(%x+)$')
  local step = redis.call('HMGET', STEPS .. run, key .. ':state', key .. ':index', key .. ':detail')
  if step[1] ~= 'waiting' or not step[2] then return false end
  drop_wait(run, key, step[2])
  local was = read_run(run)
  local memo = '{"data":' .. event .. ',"outcome":"came","ended_at":' .. now .. ',' .. step[3]
  local _, position = record_memo(run, was, key, memo)
  memo_comes(run, was, key, position, memo, now, '')
  return true
end
