-- plan_steps: queue a job for each of several steps, so that any worker can execute it.
-- A step that already has a memo or a job is not changed.
-- USES     clock jobs state concurrency
-- KEYS     1 run  2 memos  3 steps
-- ARGV     1 now_ms  2 run  3 fence  4.. step_key, step_id, ...; 'queue', name: the queue of the steps that follow, in
--          place of that of the run
-- MOVES    step none -> queued|waitlisted; promote
-- RETURNS  1 PLANNED, -1 NO_RUN, -2 STALE_FENCE
local now, run, was = clock(ARGV[1]), ARGV[2], read_run(ARGV[2])
if not holds_run(was, ARGV[3]) then return refusal(was) end
local queue, name = nil, was.app .. '/' .. was.function_id .. ': '
for i = 4, #ARGV, 2 do
  local key, id = ARGV[i], ARGV[i + 1]
  if key == 'queue' then
    queue = id
    redis.call('HSET', KEYS[1], 'step_queues', 1)
  elseif redis.call('HEXISTS', KEYS[2], key) == 0 and redis.call('HEXISTS', KEYS[3], key .. ':state') == 0 then
    if queue then redis.call('HSET', KEYS[3], key .. ':queue', queue) end
    local list = list_of(queue or was.queue, true)
    local state = enqueue_or_wait(job_of(run, key), run, was, list, name .. string.sub(id, 1, 100), now)
    redis.call('HSET', KEYS[3], key, id, key .. ':state', state)
  end
end
return 1
