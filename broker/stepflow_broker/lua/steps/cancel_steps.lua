-- cancel_steps: delete the waits and the jobs of steps that the code of a run has cancelled, and cancel their children.
-- With a map, its items are cancelled.
-- A step that a worker executes is left alone: a handler is not interrupted, and its result is stored. Without its
-- memo, a cancelled step is one that the code has not requested: it may request it again.
-- USES     clock jobs waits state concurrency attempts indexes runs invokes maps map_items undo cancellation
-- KEYS     1 run  2 steps
-- ARGV     1 now_ms  2 run  3 fence  4 failure (of the children)  5 retention_ms (of the children)  6.. step_key, ...
-- MOVES    step queued|waitlisted|delayed|waiting|mapping -> none; promote; cancel; end_item
-- RETURNS  1 DONE, -1 NO_RUN, -2 STALE_FENCE
local now, run, failure, retention_ms = clock(ARGV[1]), ARGV[2], ARGV[4], tonumber(ARGV[5])
local was, has_messages = read_run(run), false
if not holds_run(was, ARGV[3]) then return refusal(was) end

-- `step` has the fields of the step, by their names without the key
local function cancel_step(key, step)
  if not step.state or step.state == 'leased' then return end
  if step.child then -- the run names it as its child for good
    keep_attempt(run, key, 1, '{"number":1,"ended_at":' .. now .. ',"outcome":"unfinished",' .. step.detail)
  end
  local child, message = drop_step(run, was, key, step)
  if step.state ~= 'waiting' then
    drop_planned_step(run, was, key, true)
    release_slots(job_of(run, key), was, now)
  elseif message then
    send_cancel(child, message, failure, retention_ms)
    has_messages = true
  elseif child then
    cancel_tree(child, failure, retention_ms, true, now)
  end
end

for i = 6, #ARGV do
  local key = ARGV[i]
  local f = redis.call('HMGET', KEYS[2], key .. ':state', key .. ':index', key .. ':child', key .. ':message',
    key .. ':detail', key .. ':count')
  if f[6] then
    for item, step in pairs(MAP_ITEMS.open(run, key)) do cancel_step(item, step) end
  end
  cancel_step(key, {state = f[1], index = f[2], child = f[3], message = f[4], detail = f[5]})
end
if has_messages then notify_outbox() end
return 1
