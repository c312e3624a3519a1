-- state: what a run is now, and who holds it.

-- what transitions need to know of a run, read once; `list` is the one that the leased continuation came from
local function read_run(run)
  local f = redis.call('HMGET', RUN .. run, 'status', 'continuation', 'lease', 'list', 'owner', 'queue', 'app',
    'function', 'deaths', 'parent', 'created_at', 'dedupe_ms', 'started_at', 'gates', 'singleton',
    'bounds', 'batch', 'away_parent')
  return {status = f[1], continuation = f[2], lease = f[3], list = f[4], owner = f[5], queue = f[6], app = f[7],
    fn = f[8], deaths = f[9], parent = f[10], created_at = f[11], dedupe_ms = f[12], started_at = f[13], gates = f[14],
    singleton = f[15], bounds = f[16], batch = f[17], away_parent = f[18],
    live = LIVE_STATUS[f[1] or '']}
end

-- whether this fence is the valid lease of the continuation
local function holds_run(was, fence)
  return was.continuation == 'leased' and was.lease == fence
end

-- whether this fence is the valid lease of a planned step's job, and whether the step was tried before
local function holds_step(run, key, fence)
  local state = redis.call('HMGET', STEPS .. run, key .. ':state', key .. ':lease', key .. ':attempt', key .. ':deaths')
  return state[1] == 'leased' and state[2] == fence, state[3] or state[4]
end

-- the answer to a worker that does not hold what it wants to change: NO_RUN or STALE_FENCE
local function refusal(was)
  return was.live and -2 or -1
end

local function is_live(run)
  return LIVE_STATUS[redis.call('HGET', RUN .. run, 'status') or ''] or false
end
