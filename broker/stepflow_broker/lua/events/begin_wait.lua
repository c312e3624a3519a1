-- begin_wait: make a step wait for a time, or for an event until a time, with the timeout key that bounds the wait.
-- A time in the past ends the step at once. The reply has the events of the look-back, for the caller to match.
-- USES     clock jobs waits state concurrency runs
-- KEYS     1 run
-- ARGV     1 now_ms  2 run  3 fence  4 step_key  5 step_id  6 detail (rest of the memo's JSON)  7 delay_ms
--          8 until_ms (0: after the delay)  9 index ('': wait for a time)  10 condition  11 event  12 lookback_ms
--          13 since (the position of the latest memo that the code had when it requested the step)
-- MOVES    step none -> waiting|memo
-- RETURNS  {1 WAITING | 0 ALREADY | 3 RESOLVED | -1 NO_RUN | -2 STALE_FENCE, position, memo, events, since_ms}
local now, run, key, index = clock(ARGV[1]), ARGV[2], ARGV[4], ARGV[9]
local was = read_run(run)
if not holds_run(was, ARGV[3]) then return {refusal(was), 0, '', {}, 0} end

-- the reply for a step that waits, with the events of the look-back
local function waiting(code, since)
  local recent = {}
  if ARGV[12] == '0' then return {code, 0, '', recent, 0} end
  local entries = redis.call('XRANGE', EVENT_HISTORY .. ARGV[11], since, '+')
  for _, entry in ipairs(entries) do recent[#recent + 1] = entry[2][2] end
  return {code, 0, '', recent, since}
end

if redis.call('HEXISTS', MEMOS .. run, key) == 1 then return {0, 0, '', {}, 0} end
local began = redis.call('HMGET', STEPS .. run, key .. ':state', key .. ':due')
if began[1] then -- it waits: the first caller may have crashed before it matched the events of the look-back
  return waiting(0, began[2] - ARGV[7] - ARGV[12])
end
local due = ARGV[8] ~= '0' and tonumber(ARGV[8]) or now + tonumber(ARGV[7])
local memo = '{"data":null,"outcome":"time","ended_at":' .. math.max(due, now) .. ',' .. ARGV[6]
if due <= now and index == '' then
  local _, position = record_memo(run, was, key, memo)
  return {3, position, memo, {}, 0}
end
redis.call('HSET', STEPS .. run, key, ARGV[5], key .. ':state', 'waiting', key .. ':detail', ARGV[6], key .. ':due',
  due)
redis.call('SET', TIMEOUT .. run .. ':' .. key, memo)
redis.call('ZADD', TIMEOUTS, due, 'wait:' .. run .. ':' .. key)
if index == '' then return {1, 0, '', {}, 0} end
redis.call('HSET', STEPS .. run, key .. ':index', index, key .. ':condition', ARGV[10], key .. ':since', ARGV[13])
add_wait(index, run .. ':' .. key)
return waiting(1, now - ARGV[12])
