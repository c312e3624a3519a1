-- take_bulk_runs: take the next runs of a bulk, or again those that were taken and are not settled.
-- The rate says how many. The worker holds the bulk for a short time, in which no other takes runs of it.
-- A worker that takes a bulk over starts with no more than one run: the time in which nobody held it is not made up for.
-- USES     clock bulks
-- KEYS     1 bulk
-- ARGV     1 now_ms  2 bulk  3 worker  4 hold_ms  5 most (runs that are taken, at most)
-- MOVES    none
-- RETURNS  {1 TAKEN | 0 ALREADY (another worker holds it) | -1 NO_RUN (it has ended), how many are settled,
--          ms until the rate allows more, 1 if no worker had it before, list of runs}
local CREDIT_MS = 250 -- the time that a late worker makes up for
local now, bulk, worker, hold_ms = clock(ARGV[1]), ARGV[2], ARGV[3], tonumber(ARGV[4])
local was = redis.call('HMGET', BULK .. bulk, 'done', 'skipped', 'refused', 'state', 'holder', 'held_until', 'taken',
  'next_at', 'per_second', 'started_at')
local settled, taken = settled_of(was), tonumber(was[7]) or 0
local is_running, is_stopping = was[4] == 'running', was[4] == 'stopping'
if not (is_running or is_stopping) then return {-1, settled, 0, 0, {}} end
local held_ms = (tonumber(was[6]) or 0) - now
if held_ms > hold_ms then held_ms = 0 end -- the clock was ahead
if was[5] and was[5] ~= worker and held_ms > 0 then return {0, settled, held_ms, 0, {}} end
if not was[10] then redis.call('HSET', BULK .. bulk, 'started_at', now) end

local per_ms = tonumber(was[9]) / 1000
local next_at = tonumber(was[8]) or now
next_at = math.min(math.max(next_at, was[5] == worker and now - CREDIT_MS or now), now + 1 / per_ms)
if taken == 0 and is_running and next_at <= now then
  taken = math.min(math.floor((now - next_at) * per_ms) + 1, tonumber(ARGV[5]))
  next_at = next_at + taken / per_ms
end
local runs = taken > 0 and redis.call('LRANGE', BULK_RUNS .. bulk, -taken, -1) or {}
if #runs == 0 and (is_stopping or redis.call('EXISTS', BULK_RUNS .. bulk) == 0) then
  end_bulk(bulk, is_stopping and 'stopped' or 'completed', now)
  return {-1, settled, 0, 0, {}}
end
redis.call('HSET', BULK .. bulk, 'holder', worker, 'held_until', now + hold_ms, 'taken', #runs,
  'next_at', string.format('%.3f', next_at))
return {1, settled, math.max(0, math.ceil(next_at - now)), was[10] and 0 or 1, runs}
