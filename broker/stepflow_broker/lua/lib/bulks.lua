-- bulks: jobs of workers that fork many runs.

local BULK_KEPT_MS = 604800000 -- how long an ended bulk is kept: 7 days

-- how many runs of a bulk are settled: its counters
local function settled_of(was)
  return (tonumber(was[1]) or 0) + (tonumber(was[2]) or 0) + (tonumber(was[3]) or 0)
end

-- end a bulk: its runs that are left are not forked, and it is forgotten later
local function end_bulk(bulk, state, now)
  redis.call('HSET', BULK .. bulk, 'state', state, 'ended_at', now, 'taken', 0, 'held_until', 0)
  redis.call('PEXPIRE', BULK .. bulk, BULK_KEPT_MS)
  redis.call('DEL', BULK_RUNS .. bulk)
  redis.call('ZADD', BULKS, now + BULK_KEPT_MS, bulk)
end
