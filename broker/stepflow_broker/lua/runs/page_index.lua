-- page_index: a page of the runs of indexes, merged, the newest first; of runs of the same time, the higher id first.
-- Several sets of indexes may each contain all wanted runs. The one with the fewest entries is read.
-- A page ends after `most` entries, so that the server is not blocked for long. The caller continues after the last one.
-- USES     indexes
-- KEYS     1 live
-- ARGV     1 after_score ('': from the newest)  2 after_run  3 least_score  4 limit  5 most
--          6 statuses (separated by commas; '': any)  7 app ('': any)  8 tags (packed subjects that a run must have)
--          9 names (packed names of functions; '': any)  10 how many sets of indexes
--          11.. of each set: how many subjects, and the subjects. `live`: the live runs. A subject without a name,
--          such as `ended `: that index of every function
-- MOVES    none
-- RETURNS  {score, run of the last entry that was read ('': there are no more), how many were read,
--          list of score, run, ...}
local after_score, after_run, least, limit, most = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local app, tags, names, statuses = ARGV[7], unpack_texts(ARGV[8]), {}, {}
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

-- a set of indexes: their keys, and what they say of their runs. `with_name`: they are of wanted functions and apps.
-- `status`: all runs have it. `subject`: they have this tag, or failed in this way.
local function read_set(at)
  local set = {with_name = true}
  for i = at + 1, at + ARGV[at] do
    local kind, rest = string.match(ARGV[i], '^(%a+) ?(.*)$')
    if kind == 'failed' or kind == 'error' then set.status = 'failed' end
    if kind == 'live' then
      set[#set + 1], set.with_name = LIVE, false
    elseif rest == '' then
      for _, name in ipairs(functions()) do
        if is_of_app(name) then set[#set + 1] = INDEX .. kind .. ' ' .. name end
      end
    elseif kind == 'tag' or kind == 'error' then
      set[#set + 1], set.with_name, set.subject = INDEX .. ARGV[i], false, ARGV[i]
    elseif is_of_app(rest) then
      set[#set + 1] = INDEX .. ARGV[i]
    end
  end
  return set
end

local function count_entries(set)
  local entries = 0
  for _, key in ipairs(set) do entries = entries + redis.call('ZCARD', key) end
  return entries
end

-- the set with the fewest entries
local function smallest_set()
  local at, best, fewest = 11, nil, nil
  for _ = 1, tonumber(ARGV[10]) do
    local set = read_set(at)
    local entries = ARGV[10] == '1' and 0 or count_entries(set)
    if not best or entries < fewest then best, fewest = set, entries end
    at = at + 1 + ARGV[at]
  end
  return best
end

-- how many entries of an index come before the place where the page begins, given how many are newer than its time
local function rank_after(key, low)
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
  index.is_last = #index.entries < 2 * index.ahead
  index.rank, index.ahead, index.at = index.rank + index.ahead, math.min(4 * index.ahead, 256), 1
end

local function step(index)
  if index.at then index.at = index.at + 2 end
  if not index.at or not (index.is_last or index.entries[index.at]) then read_ahead(index) end
  index.run, index.score = index.entries[index.at], tonumber(index.entries[index.at + 1])
  return index.run and index.score >= least
end

-- an index from the place on where the page begins; nil if it has no entries there. Most often the place is among the
-- first entries that are read ahead.
local function open_index(key, ahead)
  local newer = after_score == '' and 0 or redis.call('ZCOUNT', key, '(' .. after_score, '+inf')
  local index = {key = key, rank = newer, ahead = ahead}
  local has_more, after = step(index), tonumber(after_score)
  while has_more and index.score == after and index.run >= after_run do
    if not index.entries[index.at + 2] then
      index.rank, index.at = rank_after(key, newer), nil
      return step(index) and index
    end
    has_more = step(index)
  end
  return has_more and index
end

local function is_newer(one, other)
  if one.score ~= other.score then return one.score > other.score end
  return one.run > other.run
end

local heap = {} -- of indexes, the one with the newest next entry at the top
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

-- what the set does not say of its runs, and must be compared
local set = smallest_set()
local compares_status = ARGV[6] ~= '' and ARGV[6] ~= set.status
local compares_name = not set.with_name and (app ~= '' or ARGV[9] ~= '')
local compares_tags = tags[2] or tags[1] and tags[1] ~= set.subject

local function has_name(run)
  local f = redis.call('HMGET', RUN .. run, 'app', 'function')
  if app ~= '' and f[1] ~= app then return false end
  return ARGV[9] == '' or names[(f[1] or '') .. '/' .. (f[2] or '')]
end

local function is_wanted(run)
  local status = redis.call('HGET', RUN .. run, 'status')
  if not status or compares_status and not statuses[status] then return false end
  if compares_name and not has_name(run) then return false end
  return not compares_tags or has_tags(redis.call('HGET', RUN .. run, 'indexed'))
end

-- the next entries of all indexes: up to `count` of them -> runs, their scores
local function take(count)
  local runs, scores = {}, {}
  while heap[1] and #runs < count do
    local index = heap[1]
    runs[#runs + 1], scores[#scores + 1] = index.run, index.entries[index.at + 1]
    if not step(index) then
      heap[1] = heap[#heap]
      heap[#heap] = nil
    end
    if heap[2] then sift_down(1) end
  end
  return runs, scores
end

-- whether all of some runs are wanted, so that there is no need to read each: they only have to exist
local function are_all_wanted(runs)
  if compares_status or compares_name or compares_tags then return false end
  local keys = {}
  for n, run in ipairs(runs) do keys[n] = RUN .. run end
  return redis.call('EXISTS', unpack(keys)) == #keys
end

for _, key in ipairs(set) do
  local index = open_index(key, math.min(set[2] and math.ceil(limit / #set) + 4 or limit + 1, 256))
  if index then heap[#heap + 1] = index end
end
for at = math.floor(#heap / 2), 1, -1 do sift_down(at) end
local found, read, last_score, last_run = {}, 0, '', ''
while heap[1] and #found < 2 * limit and read < most do
  local runs, scores = take(math.min(limit - #found / 2, most - read))
  local is_every = are_all_wanted(runs)
  for n, run in ipairs(runs) do
    if is_every or is_wanted(run) then
      found[#found + 1] = scores[n]
      found[#found + 1] = run
    end
  end
  read, last_score, last_run = read + #runs, scores[#runs], runs[#runs]
end
if not heap[1] then last_score, last_run = '', '' end
return {last_score, last_run, read, found}
