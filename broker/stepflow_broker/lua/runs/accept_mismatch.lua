-- accept_mismatch: let a run go on with the code that differs from its history, at once if it was set aside for that.
-- USES     clock jobs state audit
-- KEYS     1 run  2 steps
-- ARGV     1 now_ms  2 run  3 who  4 reason
-- MOVES    none
-- RETURNS  1 ACCEPTED, 0 ALREADY (it was accepted), -1 NO_RUN (there is none, or it has ended),
--          -7 NO_MISMATCH (its code has not differed)
local now, run, was = clock(ARGV[1]), ARGV[2], read_run(ARGV[2])
if not was.live then return -1 end
if redis.call('HEXISTS', KEYS[1], 'mismatch_code') == 0 then return -7 end
if redis.call('HSETNX', KEYS[1], 'mismatch_accepted', 1) == 0 then return 0 end
local name = was.app .. '/' .. was.function_id
if was.continuation == 'delayed' and redis.call('HEXISTS', KEYS[1], 'blocked') == 1 then
  redis.call('HSET', KEYS[1], 'due', now, 'delayed_at', now)
  redis.call('HDEL', KEYS[1], 'blocked', 'deferred')
  delay_job(run, list_of(was.queue, true), name, now, now)
end
for _, field in ipairs(redis.call('HKEYS', KEYS[2])) do
  local key = string.match(field, '^(.*):deferred$')
  if key and redis.call('HGET', KEYS[2], key .. ':state') == 'delayed' then
    redis.call('HSET', KEYS[2], key .. ':due', now, key .. ':began', now)
    redis.call('HDEL', KEYS[2], key .. ':deferred')
    delay_job(job_of(run, key), list_of_step(run, was, key), name, now, now)
  end
end
audit(ARGV[3], 'accept', run, ARGV[4], '{}')
return 1
