-- indexes: how runs are found. An index is a sorted set of runs. Its subject says what the runs have in common:
--   function <app>/<function>  all runs of a function, by creation time
--   ended <app>/<function>     those that have ended, by end time
--   failed <app>/<function>    those that have failed, by end time
--   error <fingerprint>        those that have failed in the same way, by end time
--   tag <name>=<value>         all runs with a tag, by creation time
-- A run is in the first index for its whole life, and in those that its field `indexed` names. EXPIRY repeats the names
-- of all of them for an ended run, because the hash of the run is gone when the run is taken out of them.

local MAX_TAG_NAMES = 1000

-- texts as one text: the length of each, a space, and the text
local function pack_text(text)
  return #text .. ' ' .. text
end

local function unpack_texts(packed, at)
  local texts = {}
  at = at or 1
  while true do
    local length, first = string.match(packed, '^(%d+) ()', at)
    if not length then return texts end
    at = first + length
    texts[#texts + 1] = string.sub(packed, first, at - 1)
  end
end

-- add a new run to the index of its function
local function index_start(run, name, now)
  redis.call('ZADD', INDEX .. 'function ' .. name, now, run)
  redis.call('SADD', RUN_FUNCTIONS, name)
end

-- add a run to the indexes of tags
local function index_tags(run, subjects, created_at)
  for _, subject in ipairs(unpack_texts(subjects)) do
    redis.call('ZADD', INDEX .. subject, created_at, run)
    if redis.call('SCARD', TAG_NAMES) < MAX_TAG_NAMES then
      redis.call('SADD', TAG_NAMES, string.match(subject, '^tag ([^=]*)='))
    end
  end
end

-- note that a run has failed like others
local function note_error(run, group)
  redis.call('HSET', RUN .. run, 'indexed', (redis.call('HGET', RUN .. run, 'indexed') or '') .. pack_text('error ' .. group))
end

-- the further subjects of a run: those of tags, and those of errors
local function further_subjects(indexed)
  local tags, errors = {}, {}
  for _, subject in ipairs(unpack_texts(indexed or '')) do
    local list = string.sub(subject, 1, 6) == 'error ' and errors or tags
    list[#list + 1] = subject
  end
  return tags, errors
end

-- the entry of an ended run in EXPIRY
local function expiry_of(run, name, indexed)
  return run .. ' ' .. pack_text(name) .. (indexed or '')
end

-- move a run in its indexes by creation time to another time
local function move_start(run, name, created_at)
  redis.call('ZADD', INDEX .. 'function ' .. name, 'XX', created_at, run)
  for _, subject in ipairs((further_subjects(redis.call('HGET', RUN .. run, 'indexed')))) do
    redis.call('ZADD', INDEX .. subject, 'XX', created_at, run)
  end
end

-- move an ended run in its indexes by end time to another time, and forget it sooner by this time
local function move_end(run, name, ended_at, by_ms)
  local indexed = redis.call('HGET', RUN .. run, 'indexed')
  local _, subjects = further_subjects(indexed)
  subjects[#subjects + 1] = 'ended ' .. name
  subjects[#subjects + 1] = 'failed ' .. name
  for _, subject in ipairs(subjects) do redis.call('ZADD', INDEX .. subject, 'XX', ended_at, run) end
  local entry = expiry_of(run, name, indexed)
  local until_ms = redis.call('ZSCORE', EXPIRY, entry)
  if until_ms then redis.call('ZADD', EXPIRY, until_ms - by_ms, entry) end
end

-- add a run that ends to the indexes of ended runs, until it is forgotten
local function index_end(run, name, status, now, keep_ms)
  local indexed = redis.call('HGET', RUN .. run, 'indexed')
  redis.call('ZADD', INDEX .. 'ended ' .. name, now, run)
  if status == 'failed' then
    redis.call('ZADD', INDEX .. 'failed ' .. name, now, run)
    local _, errors = further_subjects(indexed)
    for _, subject in ipairs(errors) do redis.call('ZADD', INDEX .. subject, now, run) end
  end
  redis.call('ZADD', EXPIRY, now + keep_ms, expiry_of(run, name, indexed))
end
