-- events: how an event that has come ends the waits for it.

-- an event of this name has come that cancels a run -> whether it did
local function cancel_by_event(run, n, now)
  local found = redis.call('HMGET', RUN .. run, 'cancel:' .. n, 'until:' .. n)
  if not found[1] or not is_live(run) or found[2] and now > tonumber(found[2]) then return false end
  local name = string.match(found[1], '^.-\n.-\n(.*)$')
  cancel_tree(run, cancelled_failure('the run was cancelled by event ' .. name), retention_of(run), true, now)
  return true
end

-- the waits that an event of this name meets; nothing when waits ask for values of which there is no digest by their paths
-- -> lists of members, whether there are waits that a worker has to look at, paths that are asked for
local function waits_met(name, digests)
  local waited, met, looked_at = redis.call('HKEYS', WAIT_COUNTS .. name), {}, false
  for _, paths in ipairs(waited) do
    if paths == '?' then
      looked_at = true
    elseif digests[paths] then
      met[#met + 1] = redis.call('SMEMBERS', WAITS .. paths .. '\n' .. digests[paths] .. '\n' .. name)
    else
      return nil, false, waited
    end
  end
  return met, looked_at, waited
end

-- paths and digests that stand in ARGV from a place on, their number first -> digests by paths, the next place
local function read_digests(at)
  local digests, following = {}, at + 1 + 2 * ARGV[at]
  for i = at + 1, following - 1, 2 do digests[ARGV[i]] = ARGV[i + 1] end
  return digests, following
end

-- give an event to what waits for it, a step or, with a key `!<n>`, a run that it cancels, once -> whether it was given
local function deliver_event(member, event, now)
  local run, key = string.match(member, '^(.*):(!?%x+)$')
  if string.sub(key, 1, 1) == '!' then return cancel_by_event(run, string.sub(key, 2), now) end
  local step = redis.call('HMGET', STEPS .. run, key .. ':state', key .. ':index', key .. ':detail')
  if step[1] ~= 'waiting' or not step[2] then return false end
  drop_wait(run, key, step[2])
  local was = read_run(run)
  local memo = '{"data":' .. event .. ',"outcome":"came","ended_at":' .. now .. ',' .. step[3]
  local _, position = record_memo(run, was, key, memo)
  memo_comes(run, was, key, position, memo, now, '')
  return true
end
