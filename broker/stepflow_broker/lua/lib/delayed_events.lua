-- delayed_events: events that their sender wants sent at a later time. The timer `event:<id>` sends them.

-- keep an event until it is due -> whether it is new. An event with an id that is kept already changes nothing.
local function delay_event(id, event, dedupe, due)
  if redis.call('HSETNX', DELAYED_EVENT_TEXTS, id, dedupe .. ' ' .. event) == 0 then return false end
  redis.call('ZADD', DELAYED_EVENTS, due, id)
  redis.call('ZADD', TIMEOUTS, due, 'event:' .. id)
  return true
end

-- delete a delayed event -> its text, with `1 ` before it if its sender chose the id, else `0 `; nil: there is none
local function take_delayed_event(id)
  local text = redis.call('HGET', DELAYED_EVENT_TEXTS, id)
  redis.call('HDEL', DELAYED_EVENT_TEXTS, id)
  redis.call('ZREM', DELAYED_EVENTS, id)
  return text or nil
end

-- send a delayed event that is due
local function send_delayed_event(id)
  local text = take_delayed_event(id)
  if not text then return end
  redis.call('XADD', EVENTS, '*', 'event', string.sub(text, 3), 'id', id, 'dedupe', string.sub(text, 1, 1))
end
