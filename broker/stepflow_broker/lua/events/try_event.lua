-- try_event: note that a worker begins to route an event that another worker has read and not routed, or that it is done.
-- A worker that dies meanwhile leaves the note. So an event that ends its routers is told from those read with it.
-- KEYS     1 suspect_events
-- ARGV     1 entry  2 begins (1 or 0)
-- MOVES    none
-- RETURNS  how many workers have begun to route it and not ended, with this one
local KEPT_MS = 86400000 -- longer than any worker takes
if ARGV[2] == '0' then
  redis.call('HDEL', KEYS[1], ARGV[1])
  return 0
end
local count = redis.call('HINCRBY', KEYS[1], ARGV[1], 1)
redis.call('PEXPIRE', KEYS[1], KEPT_MS)
return count
