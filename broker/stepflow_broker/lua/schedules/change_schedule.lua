-- change_schedule: create, change or delete a schedule, if it is as the caller has read it.
-- USES     clock audit
-- KEYS     1 schedules  2 schedule_states  3 schedules_version
-- ARGV     1 now_ms  2 schedule  3 revision (as the caller read it; '': there was none)  4 text ('': delete it)
--          5 progress ('now': no time up to now starts a run any more; '': unchanged; else the whole state)
--          6 who ('': not audited)  7 action  8 reason
-- MOVES    none
-- RETURNS  1 DONE, 0 ALREADY (it is as the caller wants it), -7 CHANGED (it is otherwise than the caller has read)
local name, text, progress = ARGV[2], ARGV[4], ARGV[5]
local stored = redis.call('HGET', KEYS[1], name) or ''
if stored == text then return 0 end
if (string.match(stored, '^%S+') or '') ~= ARGV[3] then return -7 end
if text == '' then
  redis.call('HDEL', KEYS[1], name)
  redis.call('HDEL', KEYS[2], name)
else
  redis.call('HSET', KEYS[1], name, text)
  if progress == 'now' then
    local last = string.match(redis.call('HGET', KEYS[2], name) or '', '^%d+( .*)$') or ''
    progress = string.format('%.0f', clock(ARGV[1])) .. last
  end
  if progress ~= '' then redis.call('HSET', KEYS[2], name, progress) end
end
redis.call('INCR', KEYS[3])
audit(ARGV[6], ARGV[7], 'schedule ' .. name, ARGV[8], '{}')
return 1
