-- invoke_remote_child: make a step wait for a child in another partition, once.
-- It adds the message that starts the child to the stream. A repeated call returns the same message while the step
-- waits. The script is refused as invoke_child is.
-- USES     clock jobs waits state concurrency attempts indexes runs invokes maps map_items remote_children
-- KEYS     1 run
-- ARGV     1 now_ms  2 run  3 fence  4 version  5 step_key  6 step_id  7 detail (rest of the memo's JSON)
--          8 timeout_ms  9 timeout_memo  10 child  11 event  12 args (JSON: ARGV of start_remote_child from 5 on)
-- MOVES    step none|leased -> waiting; end_item
-- RETURNS  {1 RECORDED | 0 ALREADY | -1 NO_RUN | -2 STALE_FENCE | -3 STALE_REGISTRY, message or ''}
local now, run, key, child = clock(ARGV[1]), ARGV[2], ARGV[5], ARGV[10]
local was = read_run(run)
local refused = invoke_refusal(run, was, ARGV[3], key, ARGV[4])
if refused == 0 then
  local step = redis.call('HMGET', STEPS .. run, key .. ':child', key .. ':message')
  return {0, step[1] == child and step[2] or ''}
end
if refused then return {refused, ''} end

local function await_remote()
  await_child(run, key, ARGV[6], child, ARGV[7], now, ARGV[8], ARGV[9])
  local message = redis.call('XADD', FINISHED, '*', 'start', child, 'event', ARGV[11], 'args', ARGV[12])
  redis.call('HSET', STEPS .. run, key .. ':message', message)
  return {1, message}
end

if #key < 56 then return await_remote() end
-- REST: the child of an item, whose job ends
MAP_ITEMS.leave(run, was, key, ARGV[3], now)
return await_remote()
