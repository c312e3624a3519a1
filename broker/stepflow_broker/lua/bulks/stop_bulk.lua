-- stop_bulk: stop a bulk. Runs that a worker has taken are still forked, and then it ends; the others are left alone.
-- USES     clock audit bulks
-- KEYS     1 bulk
-- ARGV     1 now_ms  2 bulk  3 who  4 reason
-- MOVES    none
-- RETURNS  1 STOPPED, 0 ALREADY (stopped or ended), -1 NO_RUN (there is no such bulk)
local now, bulk = clock(ARGV[1]), ARGV[2]
local was = redis.call('HMGET', BULK .. bulk, 'state', 'taken', 'function')
if not was[1] then return -1 end
if was[1] ~= 'running' then return 0 end
redis.call('HSET', BULK .. bulk, 'state', 'stopping', 'stopped_by', ARGV[3])
if (tonumber(was[2]) or 0) == 0 then end_bulk(bulk, 'stopped', now) end
audit(ARGV[3], 'stop_bulk', 'bulk ' .. bulk, ARGV[4], '{}')
return 1
