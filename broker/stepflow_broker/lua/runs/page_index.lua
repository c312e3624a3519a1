-- page_index: a page of the runs of indexes, merged, the newest first; of runs of the same time, the higher id first.
-- Several sets of indexes may each contain all wanted runs. The one with the fewest entries is read.
-- A page ends after `most` entries, so that the server is not blocked for long. The caller continues after the last one.
-- USES     indexes
-- KEYS     1 live
-- ARGV     1 after_score ('': from the newest)  2 after_run  3 least_score  4 limit  5 most
--          6 statuses (separated by commas; '': any)  7 app ('': any)  8 tags (packed subjects that a run must have)
--          9 names (packed names of functions; '': any)  10.. sets of indexes: how many, then of each the number of its subjects, and the subjects. `live`: the live
--          runs. A subject without a name, such as `ended `: that index of every function
-- MOVES    none
-- RETURNS  {score, run of the last entry that was read ('': there are no more), how many were read,
--          list of {score, run}}
local after_score, after_run, least, limit, most = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local app, tags, names, has_names, statuses = ARGV[7], unpack_texts(ARGV[8]), {}, ARGV[9] ~= '', {}
for _, name in ipairs(unpack_texts(ARGV[9])) do names[name] = true end
for status in string.gmatch(ARGV[6], '[^,]+') do statuses[status] = true end

local all_functions
-- the names of the functions that have runs here
local function functions()
  all_functions = all_functions or redis.call('SMEMBERS', RUN_FUNCTIONS)
  return all_functions
end

local function is_of_app(name)
  return app == '' or string.sub(name, 1, #app + 1) == app .. '/'
end

-- the keys of a set of indexes, and how many entries they have
local function keys_of(at)
  local keys, entries = {}, 0
  for i = at + 1, at + ARGV[at] do
    local kind = string.match(ARGV[i], '^%a+ $')
    if ARGV[i] == 'live' then
      keys[#keys + 1] = LIVE
    elseif kind then
      for _, name in ipairs(functions()) do
        if is_of_app(name) then keys[#keys + 1] = INDEX .. kind .. name end
      end
    else
      keys[#keys + 1] = INDEX .. ARGV[i]
    end
  end
  for _, key in ipairs(keys) do entries = entries + redis.call('ZCARD', key) end
  return keys, entries
end

-- the keys of the set with the fewest entries
local function smallest_set()
  local at, best, fewest = 11, nil, nil
  for _ = 1, tonumber(ARGV[10]) do
    local keys, entries = keys_of(at)
    if not best or entries < fewest then best, fewest = keys, entries end
    at = at + 1 + ARGV[at]
  end
  return best
end

-- how many entries of an index come before the place where the page begins
local function first_rank(key)
  if after_score == '' then return 0 end
  local score = redis.call('ZSCORE', key, after_run)
  if score and tonumber(score) == tonumber(after_score) then return redis.call('ZREVRANK', key, after_run) + 1 end
  local low = redis.call('ZCOUNT', key, '(' .. after_score, '+inf')
  local high = low + redis.call('ZCOUNT', key, after_score, after_score)
  while low < high do -- the entries of the same time, the highest id first
    local middle = math.floor((low + high) / 2)
    if redis.call('ZREVRANGE', key, middle, middle)[1] < after_run then high = middle else low = middle + 1 end
  end
  return low
end

-- an index that is read: `entries` are those read ahead, `at` the place of the next, nil after the last
local function read_ahead(index)
  index.entries = redis.call('ZREVRANGE', index.key, index.rank, index.rank + index.ahead - 1, 'WITHSCORES')
  index.rank, index.ahead, index.at = index.rank + index.ahead, math.min(4 * index.ahead, 256), 1
end

local function step(index)
  if index.at then index.at = index.at + 2 end
  if not index.at or not index.entries[index.at] then read_ahead(index) end
  index.run, index.score = index.entries[index.at], tonumber(index.entries[index.at + 1])
  return index.run and index.score >= least
end

local function is_newer(one, other)
  if one.score ~= other.score then return one.score > other.score end
  return one.run > other.run
end

-- a heap of indexes, the one with the newest next entry at the top
local heap = {}
local function sift_down(at)
  while true do
    local best = at
    for child = 2 * at, 2 * at + 1 do
      if heap[child] and is_newer(heap[child], heap[best]) then best = child end
    end
    if best == at then return end
    heap[at], heap[best], at = heap[best], heap[at], best
  end
end

local function has_tags(indexed)
  local has = {}
  for _, subject in ipairs(unpack_texts(indexed or '')) do has[subject] = true end
  for _, tag in ipairs(tags) do
    if not has[tag] then return false end
  end
  return true
end

local function is_wanted(run)
  local f = redis.call('HMGET', RUN .. run, 'status', 'app', 'function', 'indexed')
  if not f[1] or (ARGV[6] ~= '' and not statuses[f[1]]) or (app ~= '' and f[2] ~= app) then return false end
  return not (has_names and not names[(f[2] or '') .. '/' .. (f[3] or '')]) and (not tags[1] or has_tags(f[4]))
end

local keys, found, read = smallest_set(), {}, 0
for _, key in ipairs(keys) do
  local index = {key = key, rank = first_rank(key), ahead = keys[2] and 4 or math.min(limit, 256)}
  if step(index) then heap[#heap + 1] = index end
end
for at = math.floor(#heap / 2), 1, -1 do sift_down(at) end
local last_score, last_run = '', ''
while heap[1] and #found < limit and read < most do
  local index = heap[1]
  read, last_score, last_run = read + 1, index.entries[index.at + 1], index.run
  if is_wanted(last_run) then found[#found + 1] = {last_score, last_run} end
  if not step(index) then
    heap[1] = heap[#heap]
    heap[#heap] = nil
  end
  if heap[2] then sift_down(1) end
end
if not heap[1] then last_score, last_run = '', '' end
return {last_score, last_run, read, found}
