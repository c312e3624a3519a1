-- send_events: add the events of a step to the stream and store the memo of the step, once. An event may be delayed.
-- USES     clock jobs waits state concurrency attempts indexes runs delayed_events
-- KEYS     1 run  2 memos  3 memo_order  4 events
-- ARGV     1 run  2 fence  3 step_key  4 memo  5.. event, event_id, dedupe (1 or 0), due_ms (0: now), ...
-- MOVES    step none -> memo
-- RETURNS  {1 STORED | 0 ALREADY_STORED | -1 NO_RUN | -2 STALE_FENCE, position}
local run, key, memo = ARGV[1], ARGV[3], ARGV[4]
local was = read_run(run)
if not holds_run(was, ARGV[2]) then
  if redis.call('HGET', KEYS[2], key) == memo then return {0, redis.call('LPOS', KEYS[3], key) + 1} end
  return {refusal(was), 0}
end
local stored, position = record_memo(run, was, key, memo)
if stored == 1 then
  for i = 5, #ARGV, 4 do
    if ARGV[i + 3] == '0' then
      redis.call('XADD', KEYS[4], '*', 'event', ARGV[i], 'id', ARGV[i + 1], 'dedupe', ARGV[i + 2])
    else
      delay_event(ARGV[i + 1], ARGV[i], ARGV[i + 2], ARGV[i + 3])
    end
  end
end
return {stored, position}
