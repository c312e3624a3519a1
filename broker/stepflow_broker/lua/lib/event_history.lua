-- event_history: recent events, for waits that begin after their event has come.
-- Each event name has a stream of its recent events. Waits that compare values at some paths make these paths known for
-- a day: since then, each event of the name is also in an index, `<digest of its values>:<entry>`, so a wait finds its
-- early events without a search. For events before the first such wait, and for conditions, a worker searches the
-- stream.

local HISTORY_MS = 3600000 -- after the last event of the name
local MAX_HISTORY = 1000 -- events of a name that a search finds
local MAX_SEARCHED_BYTES = 8 * 1024 * 1024 -- of them: a search finds no older events
local MAX_INDEXED = 10000 -- events of a name that an index finds
local MAX_INDEXED_BYTES = 16 * 1024 * 1024 -- of them, if all are as large as the latest
local MAX_CANDIDATES = 1000 -- events of equal values that one wait examines
local COMPARED_PATHS_MS = 86400000 -- after the last wait that compared values at the paths
local NOTE_PATHS_MS = 3600000 -- how often a wait is noted as the last

-- the paths that recent waits for events of a name have compared
local function recent_paths(name)
  return redis.call('HKEYS', COMPARED_PATHS .. name)
end

-- forget the paths that no wait has compared for a day
local function forget_paths(name, now)
  local known = redis.call('HGETALL', COMPARED_PATHS .. name)
  for i = 1, #known, 2 do
    local last = tonumber(string.match(known[i + 1], ' (%d+)$'))
    if now - last > COMPARED_PATHS_MS then redis.call('HDEL', COMPARED_PATHS .. name, known[i]) end
  end
end

-- note that a wait compares values at these paths -> since when events of the name are in the index of the paths
local function note_paths(name, paths, now)
  local known = redis.call('HGET', COMPARED_PATHS .. name, paths)
  local first, last = string.match(known or '', '^(%d+) (%d+)$')
  if is_ahead(first, now) then first = nil end
  if not first or math.abs(now - last) > NOTE_PATHS_MS then
    redis.call('HSET', COMPARED_PATHS .. name, paths, string.format('%.0f %.0f', first or now, now))
    redis.call('PEXPIRE', COMPARED_PATHS .. name, COMPARED_PATHS_MS)
    forget_paths(name, now)
  end
  return tonumber(first or now)
end

-- delete the oldest events of a name, with their places in the index. One event deletes at most ten.
local function trim_history(name, event)
  local history = EVENT_HISTORY .. name
  local limit = math.max(100, math.min(MAX_INDEXED, math.floor(MAX_INDEXED_BYTES / #event)))
  local over = math.min(10, redis.call('XLEN', history) - limit)
  if over <= 0 then return end
  for _, entry in ipairs(redis.call('XRANGE', history, '-', '+', 'COUNT', over)) do
    local fields = entry[2]
    for i = 5, #fields, 2 do
      redis.call('ZREM', EVENT_INDEX .. fields[i] .. '\n' .. name, fields[i + 1] .. ':' .. entry[1])
    end
    redis.call('XDEL', history, entry[1])
  end
end

-- treat the entries of a history that were added while the clock was ahead as added now. The server gives no lower id
-- than the last, so the history is written again.
local function mend_history(name, now)
  local history = EVENT_HISTORY .. name
  local ahead = redis.call('XRANGE', history, string.format('%.0f', now + AHEAD_MS + 1), '+', 'COUNT', 1)
  if not ahead[1] then return end
  local entries, latest = redis.call('XRANGE', history, '-', '+'), now
  redis.call('DEL', history)
  for number, entry in ipairs(entries) do
    local id, fields, ms = entry[1], entry[2], tonumber(string.match(entry[1], '^%d+'))
    if is_ahead(ms, now) then
      id = string.format('%.0f-%.0f', latest, 1000000 + number)
      for i = 5, #fields, 2 do
        local index = EVENT_INDEX .. fields[i] .. '\n' .. name
        redis.call('ZREM', index, fields[i + 1] .. ':' .. entry[1])
        redis.call('ZADD', index, 0, fields[i + 1] .. ':' .. id)
        redis.call('PEXPIRE', index, HISTORY_MS)
      end
    else
      latest = math.max(latest, ms)
    end
    redis.call('XADD', history, id, unpack(fields))
  end
  redis.call('PEXPIRE', history, HISTORY_MS)
end

-- add an event to the history of its name. `digests` has the digest of its values at all of `paths`.
local function remember_event(name, event, id_digest, paths, digests, now)
  local history, entry = EVENT_HISTORY .. name, nil
  if not paths[1] then
    entry = redis.call('XADD', history, 'MAXLEN', '~', MAX_HISTORY, '*', 'event', event, 'id', id_digest)
  else
    local fields = {'event', event, 'id', id_digest}
    for _, one in ipairs(paths) do
      fields[#fields + 1], fields[#fields + 2] = one, digests[one]
    end
    entry = redis.call('XADD', history, '*', unpack(fields))
    for _, one in ipairs(paths) do
      local index = EVENT_INDEX .. one .. '\n' .. name
      redis.call('ZADD', index, 0, digests[one] .. ':' .. entry)
      redis.call('PEXPIRE', index, HISTORY_MS)
    end
    trim_history(name, event)
  end
  redis.call('PEXPIRE', history, HISTORY_MS)
  if is_ahead(string.match(entry, '^%d+'), now) then mend_history(name, now) end
end

-- the events of a name since a time, oldest first, as {event, digest of its id}
local function search_history(name, since_ms)
  local found, oldest, bytes = {}, 0, 0
  local entries = redis.call('XREVRANGE', EVENT_HISTORY .. name, '+', string.format('%.0f', since_ms), 'COUNT',
    MAX_HISTORY)
  while oldest < #entries and bytes < MAX_SEARCHED_BYTES do
    oldest = oldest + 1
    bytes = bytes + #entries[oldest][2][2]
  end
  for i = oldest, 1, -1 do found[#found + 1] = {entries[i][2][2], entries[i][2][4] or ''} end
  return found
end

local function is_earlier(a, b)
  if a.ms ~= b.ms then return a.ms < b.ms end
  return a.number < b.number
end

-- the events of a name since a time that have equal values, oldest first, as {event, digest of its id}
local function find_in_index(name, paths, digest, since_ms)
  local entries, found = {}, {}
  local members = redis.call('ZRANGEBYLEX', EVENT_INDEX .. paths .. '\n' .. name,
    string.format('[%s:%013d', digest, since_ms), '(' .. digest .. ';', 'LIMIT', 0, MAX_CANDIDATES)
  for _, member in ipairs(members) do
    local ms, number = string.match(member, ':(%d+)-(%d+)$')
    entries[#entries + 1] = {ms = tonumber(ms), number = tonumber(number)}
  end
  table.sort(entries, is_earlier)
  for _, one in ipairs(entries) do
    local entry = string.format('%.0f-%.0f', one.ms, one.number)
    local fields = (redis.call('XRANGE', EVENT_HISTORY .. name, entry, entry)[1] or {})[2]
    if fields then found[#found + 1] = {fields[2], fields[4] or ''} end
  end
  return found
end

-- the early events that a wait may end with, oldest first, as {event, digest of its id}, and whether all of them match
local function early_events(index, since_ms, now)
  local paths, digest, name = string.match(index, '^(.-)\n(.-)\n(.*)$')
  mend_history(name, now)
  if digest == '' or note_paths(name, paths, now) > since_ms then return search_history(name, since_ms), false end
  return find_in_index(name, paths, digest, since_ms), true
end
