-- load_batch: the events of a batch, in the order in which its members were started.
-- KEYS     1 batched
-- ARGV     1 run_prefix (the key of a run without its id)
-- MOVES    none
-- RETURNS  list of events
local events = {}
for _, run in ipairs(redis.call('LRANGE', KEYS[1], 0, -1)) do
  events[#events + 1] = redis.call('HGET', ARGV[1] .. run, 'event')
end
return events
