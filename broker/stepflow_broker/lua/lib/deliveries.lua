-- deliveries: which events have ended waits of a run, so that an event that is sent again ends no later one.

local DELIVERED_MS = 86400000 -- an event id that is sent again after this time can end a later wait

-- note that an event ends a wait, unless the run had received the event before it began the wait: an event that is sent
-- again with its id ends no later wait. `since` is the position of the latest memo that the code had when it requested
-- the wait, `position` that of the memo that the event becomes -> whether the event ends the wait
local function note_delivery(run, digest, since, position)
  if digest == '' then return true end -- another program has written the event, without an id
  local first = redis.call('HGET', DELIVERED .. run, digest)
  if first then return tonumber(since or 0) < tonumber(first) end
  redis.call('HSET', DELIVERED .. run, digest, position)
  redis.call('PEXPIRE', DELIVERED .. run, DELIVERED_MS)
  return true
end

-- the events that have ended waits of a run, by the step key of the first wait that each has ended -> lists of digests.
-- The key is '' if that was in an earlier round of the run.
local function deliveries_of(run)
  local found, delivered = {}, redis.call('HGETALL', DELIVERED .. run)
  for i = 1, #delivered, 2 do
    local position = tonumber(delivered[i + 1])
    local key = position == 0 and '' or redis.call('LINDEX', MEMO_ORDER .. run, position - 1)
    if key then
      found[key] = found[key] or {}
      table.insert(found[key], delivered[i])
    end
  end
  return found
end

-- forget that an event has ended the wait whose memo has this position: the code had cancelled the wait
local function forget_delivery(run, digest, position)
  if redis.call('HGET', DELIVERED .. run, digest) == position then redis.call('HDEL', DELIVERED .. run, digest) end
end
