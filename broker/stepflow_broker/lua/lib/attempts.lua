-- attempts: the history of a run: its attempts that gave no result, of its steps and of its own code.
-- The hash has a field for each, `<number>:<step key>` (`<number>:` of the run's own code), numbered over the whole run.
-- An attempt is a JSON object, which only readers decode. The attempt that gave a result is in the memo or in the run.

-- what is kept at most
local KEPT = {
  of_step = 10, -- attempts of a step
  of_run = 1000, -- attempts of a run
  bytes = 4194304, -- of all of them
  unfinished = 100, -- steps that had not ended when their run was cancelled or failed
  invokes = 800, -- invokes among those: a fork of the run gets the results of their children
}

-- a text as JSON
local function json_string(text)
  return '"' .. string.gsub(text, '[%c"\\]', function(c) return string.format('\\u%04x', string.byte(c)) end) .. '"'
end

-- the fields of the attempts of a step, or of all if `key` is nil, oldest first
local function attempts_of(run, key)
  local found = {}
  for _, name in ipairs(redis.call('HKEYS', ATTEMPTS .. run)) do
    local number, of = string.match(name, '^(%d+):(%x*)$')
    if number and (not key or of == key) then found[#found + 1] = {number = tonumber(number), name = name} end
  end
  table.sort(found, function(a, b) return a.number < b.number end)
  return found
end

-- forget an attempt -> the bytes of the others
local function forget_attempt(run, name)
  local hash = ATTEMPTS .. run
  local size = #(redis.call('HGET', hash, name) or '')
  redis.call('HDEL', hash, name)
  return redis.call('HINCRBY', hash, 'bytes', -size)
end

-- keep an attempt, and forget the oldest beyond the bounds. A run that exceeds its own bounds forgets a tenth at once, so
-- that few calls have to look for the oldest. `nth` is the number of the attempt within its step.
local function keep_attempt(run, key, nth, attempt)
  local hash = ATTEMPTS .. run
  local number = redis.call('HINCRBY', hash, 'count', 1)
  redis.call('HSET', hash, string.format('%d:%s', number, key), attempt)
  local bytes = redis.call('HINCRBY', hash, 'bytes', #attempt)
  -- deaths have the number of the next attempt, so there may be more attempts than `nth`, but not before the second
  if (key == '' or tonumber(nth) > 1) and redis.call('HLEN', hash) - 2 > KEPT.of_step then
    local own = attempts_of(run, key)
    for i = 1, #own - KEPT.of_step do bytes = forget_attempt(run, own[i].name) end
  end
  if redis.call('HLEN', hash) - 2 <= KEPT.of_run and bytes <= KEPT.bytes then return end
  local all = attempts_of(run)
  local left = #all
  while left > 1 and (left > KEPT.of_run * 0.9 or bytes > KEPT.bytes * 0.9) do
    bytes = forget_attempt(run, all[#all - left + 1].name)
    left = left - 1
  end
end

-- keep the attempt of a worker that died: its lease was not extended
local function keep_death(run, key, nth, step_id, started_at, now, worker)
  local text = 'worker ' .. (worker or '?') .. ' died or was cut off from the server during this attempt'
  keep_attempt(run, key, nth, '{"number":' .. nth .. ',"id":' .. json_string(step_id) .. ',"started_at":'
    .. (started_at or 'null') .. ',"ended_at":' .. now .. ',"worker":' .. json_string(worker or '')
    .. ',"outcome":"worker_died","error":{"name":"WorkerDiedError","message":' .. json_string(text) .. '}}')
end

-- the step that the continuation of a run executes, as the worker with its lease has reported it -> step key, step id,
-- since when. The report stays when the step ends, so a step that has a memo or a job of its own is not it.
local function executing_step(run, was)
  local stored = redis.call('HGET', RUN .. run, 'executing')
  local fence, since, key, id = string.match(stored or '', '^(%d+) (%d+) (%x+) (.*)$')
  if not since or fence ~= was.lease then return nil end
  -- not a look at the memos: a producer, who cancels runs, must not read them
  if redis.call('LPOS', MEMO_ORDER .. run, key) then return nil end
  if redis.call('HEXISTS', STEPS .. run, key) == 1 then return nil end
  return key, id, since
end

-- keep what a run was doing when it ends: the steps that have not ended, and of a completed run the children that it has
-- not waited for. `fields` is the hash of its steps.
local function keep_unfinished(run, was, fields, now, has_completed)
  local end_ = ',"ended_at":' .. now .. ',"outcome":"unfinished"'
  local kept, invokes = 0, 0
  if was.continuation == 'leased' and not has_completed then
    local key, id, since = executing_step(run, was)
    if key then
      kept = 1
      keep_attempt(run, key, 1, '{"number":1,"id":' .. json_string(id) .. ',"started_at":' .. since .. ',"worker":'
        .. json_string(was.owner or '') .. end_ .. '}')
    end
  end
  for field, id in pairs(fields) do
    local state, child = fields[field .. ':state'], fields[field .. ':child']
    local is_kept = state and not child and not has_completed and kept < KEPT.unfinished
    if is_kept or child and invokes < KEPT.invokes then
      local nth = (tonumber(fields[field .. ':attempt']) or 0) + 1
      local attempt = '{"number":' .. nth .. end_
      if fields[field .. ':detail'] then
        attempt = attempt .. ',' .. fields[field .. ':detail']
      else
        attempt = attempt .. ',"id":' .. json_string(id) .. ',"started_at":' .. (fields[field .. ':leased_at'] or 'null')
          .. ',"worker":' .. json_string(fields[field .. ':owner'] or '') .. '}'
      end
      keep_attempt(run, field, nth, attempt)
      if child then invokes = invokes + 1 else kept = kept + 1 end
    end
  end
end
