-- take_bulk_runs: take the next runs of a bulk, or again those that were taken and are not settled.
-- The worker holds the bulk for a short time, in which no other takes runs of it.
-- The rate is an average: time in which too few runs were taken is made up for, whichever worker takes the next ones. The
-- pace, which is faster than the rate, bounds how many are taken in a short time.
-- USES     clock bulks
-- KEYS     1 bulk
-- ARGV     1 now_ms  2 bulk  3 worker  4 hold_ms  5 most (runs that are taken, at most)
-- MOVES    none
-- RETURNS  {1 TAKEN | 0 ALREADY (another worker holds it) | -1 NO_RUN (it has ended), how many are settled,
--          ms until the rate allows more, 1 if no worker had it before, list of runs}
local CREDIT_MS, PACE_CREDIT_MS = 5000, 250 -- the time that is made up for, by the rate and by the pace
local PACE = 1.5 -- times the rate

-- a meter of runs at a rate: when the next one is due, and how many are due now
local function due_runs(at, now, per_ms, credit_ms)
  at = math.min(math.max(tonumber(at) or now, now - credit_ms), now + 1 / per_ms)
  return at, at <= now and math.floor((now - at) * per_ms) + 1 or 0
end

local now, bulk, worker, hold_ms = clock(ARGV[1]), ARGV[2], ARGV[3], tonumber(ARGV[4])
local was = redis.call('HMGET', BULK .. bulk, 'done', 'skipped', 'refused', 'state', 'holder', 'held_until', 'taken',
  'next_at', 'per_second', 'started_at', 'paced_at')
local settled, taken = settled_of(was), tonumber(was[7]) or 0
local is_running, is_stopping = was[4] == 'running', was[4] == 'stopping'
if not (is_running or is_stopping) then return {-1, settled, 0, 0, {}} end
local held_ms = (tonumber(was[6]) or 0) - now
if held_ms > hold_ms then held_ms = 0 end -- the clock was ahead
if was[5] and was[5] ~= worker and held_ms > 0 then return {0, settled, held_ms, 0, {}} end
if not was[10] then redis.call('HSET', BULK .. bulk, 'started_at', now) end

local per_ms = tonumber(was[9]) / 1000
local next_at, due = due_runs(was[8], now, per_ms, CREDIT_MS)
local paced_at, paced = due_runs(was[11], now, PACE * per_ms, PACE_CREDIT_MS)
if taken == 0 and is_running then
  taken = math.min(due, paced, tonumber(ARGV[5]))
  next_at, paced_at = next_at + taken / per_ms, paced_at + taken / (PACE * per_ms)
end
local runs = taken > 0 and redis.call('LRANGE', BULK_RUNS .. bulk, -taken, -1) or {}
if #runs == 0 and (is_stopping or redis.call('EXISTS', BULK_RUNS .. bulk) == 0) then
  end_bulk(bulk, is_stopping and 'stopped' or 'completed', now)
  return {-1, settled, 0, 0, {}}
end
redis.call('HSET', BULK .. bulk, 'holder', worker, 'held_until', now + hold_ms, 'taken', #runs,
  'next_at', string.format('%.3f', next_at), 'paced_at', string.format('%.3f', paced_at))
return {1, settled, math.max(0, math.ceil(math.max(next_at, paced_at) - now)), was[10] and 0 or 1, runs}
