-- events: how an event ends the waits for it.

-- cancel a run by its cancel_on event number n, unless that has expired -> whether the run was cancelled
local function cancel_by_event(run, n, now)
  local found = redis.call('HMGET', RUN .. run, 'cancel:' .. n, 'until:' .. n)
  if not found[1] or not is_live(run) or found[2] and now > tonumber(found[2]) then return false end
  local name = string.match(found[1], '^.-\n.-\n(.*)$')
  cancel_tree(run, cancelled_failure('the run was cancelled by event ' .. name), retention_of(run), true, now)
  return true
end

-- the waits that an event matches, by its name and the digests of its values
-- -> lists of members, whether a worker must also match waits with a condition, all paths that waits compare
-- -> nil, false, all paths: when a wait compares values at paths of which there is no digest
local function matching_waits(name, digests)
  local paths, matches, has_conditions = redis.call('HKEYS', WAIT_COUNTS .. name), {}, false
  for _, compared in ipairs(paths) do
    if compared == '?' then
      has_conditions = true
    elseif digests[compared] then
      matches[#matches + 1] = redis.call('SMEMBERS', WAITS .. compared .. '\n' .. digests[compared] .. '\n' .. name)
    else
      return nil, false, paths
    end
  end
  return matches, has_conditions, paths
end

-- digests in ARGV from an index on, as `count, paths, digest, ...` -> digests by paths, the index after them
local function read_digests(at)
  local digests, following = {}, at + 1 + 2 * ARGV[at]
  for i = at + 1, following - 1, 2 do digests[ARGV[i]] = ARGV[i + 1] end
  return digests, following
end

-- deliver an event, with the digest of its id, to one wait, once: it ends a step, or cancels a run (key `!<n>`)
-- -> whether it ended the wait
local function deliver_event(member, event, digest, now)
  local run, key = string.match(member, '^(.*):(!?%x+)$')
  if string.sub(key, 1, 1) == '!' then return cancel_by_event(run, string.sub(key, 2), now) end
  local step = redis.call('HMGET', STEPS .. run, key .. ':state', key .. ':index', key .. ':detail', key .. ':since')
  if step[1] ~= 'waiting' or not step[2] then return false end
  if not note_delivery(run, digest, step[4], redis.call('LLEN', MEMO_ORDER .. run) + 1) then return false end
  drop_wait(run, key, step[2])
  local was = read_run(run)
  local memo = '{"data":' .. event .. ',"outcome":"came","ended_at":' .. now .. ',' .. step[3]
  local _, position = record_memo(run, was, key, memo)
  wake_run(run, was, key, position, now, '')
  return true
end
