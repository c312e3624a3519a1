-- record_heartbeat: keep the detail of the last heartbeat of a handler. The next attempt of the step reads it.
-- USES     state
-- KEYS     1 run  2 attempts
-- ARGV     1 run  2 job_key ('' for the continuation)  3 fence  4 step_key  5 detail
-- MOVES    none
-- RETURNS  1 RECORDED, -1 NO_RUN, -2 STALE_FENCE
local run, was = ARGV[1], read_run(ARGV[1])
local held = ARGV[2] == '' and holds_run(was, ARGV[3]) or ARGV[2] ~= '' and holds_step(run, ARGV[2], ARGV[3])
if not held then return refusal(was) end
redis.call('HSET', KEYS[1], 'heartbeats', 1)
redis.call('HSET', KEYS[2], 'beat:' .. ARGV[4], ARGV[5])
return 1
