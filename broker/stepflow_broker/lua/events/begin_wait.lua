-- begin_wait: make a step wait for a time, or for an event until a time, with the timeout key that bounds the wait.
-- A time in the past ends the step at once, and so does an early event: one that has come before the wait begins, but
-- since the run began or within the look-back. If the index of events does not have it, the reply has the events that
-- may be it, for the caller to match. The event that has started the run is not one of them.
-- USES     clock jobs waits state concurrency attempts indexes runs deliveries event_history
-- KEYS     1 run
-- ARGV     1 now_ms  2 run  3 fence  4 step_key  5 step_id  6 detail (rest of the memo's JSON)  7 delay_ms
--          8 until_ms (0: after the delay)  9 index ('': wait for a time)  10 condition  11 lookback_ms (0: no early
--          event; 'run': since the run began, or that of which it is a retry)  12 since (the position of the latest
--          memo that the code had when it requested the step)  13 id_digest of the event that has started the run
--          14.. id_digest, position, ... of events that have ended waits which the code had cancelled: they may end this
-- MOVES    step none -> waiting|memo
-- RETURNS  {1 WAITING | 0 ALREADY | 3 RESOLVED | -1 NO_RUN | -2 STALE_FENCE, position, memo, events, since_ms}
local now, run, key, index = clock(ARGV[1]), ARGV[2], ARGV[4], ARGV[9]
local was = read_run(run)
if not holds_run(was, ARGV[3]) then return {refusal(was), 0, '', {}, 0} end

local COLLECTED = {debounced = true, ['collected in a batch'] = true} -- runs that collect events before they start

-- from when on events are early events of this wait; nil: there are none
local function early_since()
  if index == '' or ARGV[11] == '0' then return end
  if ARGV[11] ~= 'run' then return now - ARGV[11] end
  local f = redis.call('HMGET', RUN .. run, 'delayed_by', 'events_since')
  return tonumber(f[2]) or COLLECTED[f[1]] and was.started_at + 1 or tonumber(was.created_at)
end

-- the reply for a step that waits: a worker must match the early events
local function waiting(code, early, since_ms)
  local events = {}
  for _, one in ipairs(early) do
    if one[2] == '' or one[2] ~= ARGV[13] then events[#events + 1] = one[1] end
  end
  return {code, 0, '', events, since_ms}
end

-- end the step with the first early event that the run has not received -> the reply; nil: there is none
local function end_early(early)
  for _, one in ipairs(early) do
    local event, digest = one[1], one[2]
    local is_own = digest ~= '' and digest == ARGV[13]
    if not is_own and note_delivery(run, digest, ARGV[12], redis.call('LLEN', MEMO_ORDER .. run) + 1) then
      local memo = '{"data":' .. event .. ',"outcome":"came","ended_at":' .. now .. ',' .. ARGV[6]
      local _, position = record_memo(run, was, key, memo)
      return {3, position, memo, {}, 0}
    end
  end
end

if redis.call('HEXISTS', MEMOS .. run, key) == 1 then return {0, 0, '', {}, 0} end
local began = redis.call('HMGET', STEPS .. run, key .. ':state', key .. ':lookback')
if began[1] then -- it waits: the first caller may have crashed before it matched the early events
  if not began[2] then return {0, 0, '', {}, 0} end
  return waiting(0, (early_events(index, tonumber(began[2]), now)), tonumber(began[2]))
end
local due = ARGV[8] ~= '0' and tonumber(ARGV[8]) or now + tonumber(ARGV[7])
local memo = memo_of_time(math.max(due, now), ARGV[6])
if due <= now and index == '' then
  local _, position = record_memo(run, was, key, memo)
  return {3, position, memo, {}, 0}
end
for i = 14, #ARGV, 2 do forget_delivery(run, ARGV[i], ARGV[i + 1]) end
local since_ms, early, is_exact = early_since(), {}, true
if since_ms then
  early, is_exact = early_events(index, since_ms, now)
  local reply = is_exact and end_early(early)
  if reply then return reply end
end
redis.call('HSET', STEPS .. run, key, ARGV[5], key .. ':state', 'waiting', key .. ':detail', ARGV[6], key .. ':due',
  due)
if ARGV[8] == '0' then redis.call('HSET', STEPS .. run, key .. ':began', now) end
redis.call('SET', TIMEOUT .. run .. ':' .. key, memo)
redis.call('ZADD', TIMEOUTS, due, 'wait:' .. run .. ':' .. key)
if index == '' then return {1, 0, '', {}, 0} end
redis.call('HSET', STEPS .. run, key .. ':index', index, key .. ':condition', ARGV[10], key .. ':since', ARGV[12])
add_wait(index, run .. ':' .. key)
if not since_ms or is_exact and P == '' then return {1, 0, '', {}, 0} end
redis.call('HSET', STEPS .. run, key .. ':lookback', since_ms) -- until a worker has matched the early events
return waiting(1, is_exact and {} or early, since_ms)
