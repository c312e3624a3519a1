-- read_early_events: the events of this partition that may end a wait of a run in another partition.
-- USES     clock event_history
-- KEYS     1 compared_paths
-- ARGV     1 now_ms  2 index (of the wait)  3 since_ms
-- MOVES    none
-- RETURNS  list of events, oldest first
local events = {}
for _, one in ipairs((early_events(ARGV[2], tonumber(ARGV[3]), clock(ARGV[1])))) do events[#events + 1] = one[1] end
return events
