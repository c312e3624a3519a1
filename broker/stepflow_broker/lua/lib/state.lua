-- state: the current state of a run, and the checks of leases.

-- the fields of a run that transitions need, read once. Scripts call the result `was`: the run before the transition.
-- `list` is the list from which the leased continuation was claimed.
local function read_run(run)
  local f = redis.call('HMGET', RUN .. run, 'status', 'continuation', 'lease', 'list', 'owner', 'queue', 'app',
    'function', 'deaths', 'parent', 'created_at', 'dedupe_ms', 'started_at', 'concurrency', 'singleton',
    'cancel_events', 'batch', 'remote_parent', 'signals',
    'options', 'step_queues')
  return {status = f[1], continuation = f[2], lease = f[3], list = f[4], owner = f[5], queue = f[6], app = f[7],
    function_id = f[8], deaths = f[9], parent = f[10], created_at = f[11], dedupe_ms = f[12], started_at = f[13],
    concurrency = f[14], singleton = f[15], cancel_events = f[16], batch = f[17], remote_parent = f[18],
    signals = f[19], options = f[20], step_queues = f[21], live = LIVE_STATUS[f[1] or '']}
end

-- whether this fence is the valid lease of the continuation
local function holds_run(was, fence)
  return was.continuation == 'leased' and was.lease == fence
end

-- whether this fence is the valid lease of a planned step's job, and whether the step was attempted before
local function holds_step(run, key, fence)
  local state = redis.call('HMGET', STEPS .. run, key .. ':state', key .. ':lease', key .. ':attempt', key .. ':deaths')
  return state[1] == 'leased' and state[2] == fence, state[3] or state[4]
end

-- the status code for a worker without a valid lease: NO_RUN or STALE_FENCE
local function refusal(was)
  return was.live and -2 or -1
end

local function is_live(run)
  return LIVE_STATUS[redis.call('HGET', RUN .. run, 'status') or ''] or false
end
