-- settle_bulk_runs: count what became of the runs that a worker has taken, once, and hold the bulk for longer.
-- A bulk whose last runs are settled, or that was stopped meanwhile, ends.
-- USES     clock bulks
-- KEYS     1 bulk
-- ARGV     1 now_ms  2 bulk  3 worker  4 hold_ms (0: the worker leaves it to others)  5 settled (how many before)
--          6 done  7 skipped  8 refused  9.. why, count, run, ... (why: outcome and text; run: one of them)
-- MOVES    none
-- RETURNS  1 SETTLED, 2 MORE (SETTLED, and the bulk has ended), 0 ALREADY (or another worker has them now)
local MAX_REASONS = 20 -- different texts; the rest are counted together
local now, bulk, worker = clock(ARGV[1]), ARGV[2], ARGV[3]
local was = redis.call('HMGET', BULK .. bulk, 'done', 'skipped', 'refused', 'state', 'holder', 'taken', 'reasons')
local count = ARGV[6] + ARGV[7] + ARGV[8]
if was[5] ~= worker or settled_of(was) ~= tonumber(ARGV[5]) or tonumber(was[6]) ~= count then return 0 end
redis.call('LTRIM', BULK_RUNS .. bulk, 0, -count - 1)
for at, name in ipairs({'done', 'skipped', 'refused'}) do redis.call('HINCRBY', BULK .. bulk, name, ARGV[5 + at]) end
local reasons = tonumber(was[7]) or 0
for i = 9, #ARGV, 3 do
  local why = 'why:' .. ARGV[i]
  local known = redis.call('HGET', BULK .. bulk, why)
  if not known and reasons >= MAX_REASONS then
    why = 'why:' .. string.match(ARGV[i], '^%a+') .. ' other reasons'
    known = redis.call('HGET', BULK .. bulk, why)
  elseif not known then
    reasons = reasons + 1
  end
  local number, run = string.match(known or '', '^(%d+) (.*)$')
  redis.call('HSET', BULK .. bulk, why, (number or 0) + ARGV[i + 1] .. ' ' .. (run or ARGV[i + 2]))
end
redis.call('HSET', BULK .. bulk, 'taken', 0, 'held_until', now + ARGV[4], 'reasons', reasons)
local is_empty = redis.call('EXISTS', BULK_RUNS .. bulk) == 0
if not is_empty and was[4] == 'running' then return 1 end
end_bulk(bulk, is_empty and 'completed' or 'stopped', now)
return 2
