-- begin_map: make a step call a handler, or a function, for each of many items, once, and hand out the first items.
-- Each call hands out some more, until as many are open as may be.
-- USES     clock jobs state concurrency maps
-- KEYS     1 run  2 memos  3 steps
-- ARGV     1 now_ms  2 run  3 fence  4 step_key  5 step_id  6 detail (rest of the memo's JSON)  7 digest (of the items)
--          8 count  9 at_once  10 tolerated (how many may fail)  11 room (the largest size of all results, in bytes)
--          12 queue (of the jobs; '': that of the run)
-- MOVES    step none -> mapping; hand_out; promote
-- RETURNS  1 STARTED, 2 MORE (there are items left to hand out: call it again), 0 ALREADY (it has ended, or collects),
--          -1 NO_RUN, -2 STALE_FENCE
local now, run, key, was = clock(ARGV[1]), ARGV[2], ARGV[4], read_run(ARGV[2])
if not holds_run(was, ARGV[3]) then return refusal(was) end
if redis.call('HEXISTS', KEYS[2], key) == 1 then return 0 end
local m = MAPS.read(run, key)
if m and m.state ~= 'mapping' then return 0 end
if not m then
  redis.call('HSET', KEYS[3], key, ARGV[5], key .. ':state', 'mapping', key .. ':detail', ARGV[6], key .. ':digest',
    ARGV[7], key .. ':count', ARGV[8], key .. ':at_once', ARGV[9], key .. ':tolerated', ARGV[10], key .. ':room',
    ARGV[11], key .. ':attempt', 0, key .. ':next', 0, key .. ':open', 0, key .. ':failed', 0, key .. ':bytes', 0)
  if ARGV[12] ~= '' then
    redis.call('HSET', KEYS[1], 'step_queues', 1)
    redis.call('HSET', KEYS[3], key .. ':queue', ARGV[12])
  end
  m = MAPS.read(run, key)
end
MAPS.hand_out(run, was, key, m, 100, now, enqueue_or_wait)
return m.next < m.count and m.open < m.at_once and not MAPS.is_stopped(m) and 2 or 1
