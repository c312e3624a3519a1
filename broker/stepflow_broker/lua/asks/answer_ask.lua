-- answer_ask: end the wait of a step with an answer. Only the first answer counts.
-- The caller has checked the answer with the schema in `detail`. If the step waits for another answer by now, it is refused.
-- USES     clock jobs waits state concurrency attempts indexes runs audit
-- KEYS     1 run
-- ARGV     1 now_ms  2 run  3 step_key  4 detail (as it is stored)  5 answer (the beginning of the memo's JSON, with an id
--          of this answer)  6 who  7 details (JSON)
-- MOVES    step waiting -> memo; wake
-- RETURNS  1 ANSWERED, 0 ALREADY (the step waits for no answer, or for another one), -1 NO_RUN
local run, key, detail, answer, was = ARGV[2], ARGV[3], ARGV[4], ARGV[5], read_run(ARGV[2])
local stored = redis.call('HGET', MEMOS .. run, key)
if stored then return string.sub(stored, 1, #answer) == answer and 1 or 0 end
if not was.live then return -1 end
local wait = redis.call('HMGET', STEPS .. run, key .. ':index', key .. ':detail')
if wait[1] ~= 'ask' or wait[2] ~= detail then return 0 end
local now = clock(ARGV[1])
drop_wait(run, key, 'ask')
local _, position = record_memo(run, was, key, answer .. ',"ended_at":' .. now .. ',' .. detail)
wake_run(run, was, key, position, now, '')
audit(ARGV[6], 'answer', run, '', ARGV[7])
return 1
