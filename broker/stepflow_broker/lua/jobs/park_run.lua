-- park_run: end the lease of a run that waits for steps. The next step that ends queues its continuation again.
-- USES     clock jobs waits state concurrency attempts indexes runs
-- KEYS     1 run  2 memo_order
-- ARGV     1 now_ms  2 run  3 fence  4 applied (how many memos the worker has replayed)
-- MOVES    run running -> waiting; continuation leased -> parked; promote
-- RETURNS  1 PARKED, 2 MORE (there is a newer memo: the lease is kept), -1 NO_RUN, -2 STALE_FENCE,
--          0 NOTHING_TO_WAIT_FOR (the server has lost memos or steps: the lease is kept)
local run, fence, was = ARGV[2], ARGV[3], read_run(ARGV[2])
if not holds_run(was, fence) then return refusal(was) end
if redis.call('LLEN', KEYS[2]) > tonumber(ARGV[4]) then return 2 end
if redis.call('LLEN', KEYS[2]) < tonumber(ARGV[4]) or redis.call('EXISTS', STEPS .. run) == 0 then return 0 end
end_lease(run, was, was.list, fence, clock(ARGV[1]))
redis.call('HDEL', KEYS[1], 'continuation', 'lease', 'list', 'owner', 'leased_at', 'executing')
redis.call('HSET', KEYS[1], 'status', 'waiting')
redis.call('HSET', RQ_JOB .. run, 'status', 'deferred', 'worker_name', '')
return 1
