-- remove_consumers: delete consumers of the two streams whose workers have ended: one by name, or all that were idle.
-- A consumer with pending entries stays, because its deletion would lose them: workers take these entries over first. A
-- consumer of a live worker loses nothing either: its next read creates it again.
-- KEYS     1 events  2 finished
-- ARGV     1 worker ('': all that have read nothing for idle_ms)  2 idle_ms
-- MOVES    none
-- RETURNS  the number of deleted consumers
local count = 0
for _, stream in ipairs(KEYS) do
  local consumers = redis.pcall('XINFO', 'CONSUMERS', stream, GROUP)
  for _, flat in ipairs(consumers.err and {} or consumers) do -- an error: there is no stream, or no group
    local consumer = {}
    for i = 1, #flat, 2 do consumer[flat[i]] = flat[i + 1] end
    local is_gone = consumer.name == ARGV[1] or ARGV[1] == '' and consumer.idle >= tonumber(ARGV[2])
    if is_gone and consumer.pending == 0 then
      redis.call('XGROUP', 'DELCONSUMER', stream, GROUP, consumer.name)
      count = count + 1
    end
  end
end
return count
