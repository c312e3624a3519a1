-- starts: whether a run may start.

-- count one start within a rate limit -> whether it is within it; limit 0: there is none
local function within_rate(name, limit, period_ms, run, now)
  limit, period_ms = tonumber(limit), tonumber(period_ms)
  if limit == 0 then return true end
  local key = RATE .. name
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now - period_ms)
  if redis.call('ZCARD', key) >= limit then return false end
  redis.call('ZADD', key, now, run)
  redis.call('PEXPIRE', key, period_ms)
  return true
end

-- a run that its function's flow control does not let start: recorded, and ended at once
local function skip_run(run, app, fn, queue, event, now, more, reason, retention_ms)
  redis.call('HSET', RUN .. run, 'app', app, 'function', fn, 'queue', queue, 'event', event, 'status', 'queued',
    'attempt', 0, 'created_at', now, 'reason', reason, unpack(more))
  end_run(run, read_run(run), 'skipped', 'error',
    '{"name":"RunSkippedError","message":"the run was skipped: ' .. reason .. '"}', now, retention_ms)
end

-- start a run, or skip it -> whether it was started
local function start_or_skip(run, app, fn, queue, event, now, more, rate, limit, period_ms, retention_ms)
  if within_rate(rate, limit, period_ms, run, now) then
    create_run(run, app, fn, queue, event, now, more)
    return true
  end
  skip_run(run, app, fn, queue, event, now, more, 'rate limited', retention_ms)
  return false
end
