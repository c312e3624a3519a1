-- code: which versions of the code live workers have.
-- Each set of a live worker (see register_code) has the functions of the worker, and its version as `version <version>`.
-- A job whose code a version lacks goes to workers of other versions. `left_by` are the versions that have left it.
-- It also has, as `release <release>`, what users call the version. A run that is pinned is executed by workers of one
-- release only. Its jobs that others have met wait in the wait list `code <list>\\n<app/id>\\n=<release>`.

local function split_words(text)
  local words = {}
  for word in string.gmatch(text, '%S+') do words[#words + 1] = word end
  return words
end

-- whether a live worker has a function in a version that has not left the job
local function has_other_version(name, left_by, now)
  for _, digest in ipairs(redis.call('ZRANGEBYSCORE', CODES, now, '+inf')) do
    local set = CODE .. digest
    local is_other = redis.call('SISMEMBER', set, name) == 1 and redis.call('SISMEMBER', set, 'versions') == 1
    for _, version in ipairs(split_words(left_by)) do
      is_other = is_other and redis.call('SISMEMBER', set, 'version ' .. version) == 0
    end
    if is_other then return true end
  end
  return false
end

-- whether a live worker has a function in a release
local function has_release(name, release, now)
  for _, digest in ipairs(redis.call('ZRANGEBYSCORE', CODES, now, '+inf')) do
    local set = CODE .. digest
    if redis.call('SISMEMBER', set, name) == 1 and redis.call('SISMEMBER', set, 'release ' .. release) == 1 then
      return true
    end
  end
  return false
end

-- the release of the worker that has registered a pinned function last
local function registered_release(name)
  return string.match(redis.call('HGET', FUNCTIONS, name) or '', '"release":"([^"\\]+)"')
end

-- the release of a subject of CODE_WAITS that has jobs of pinned runs; nil: it has other jobs
local function release_of(left_by)
  return string.match(left_by or '', '^=(.*)$')
end
