-- continue_as_new: end a round of a run, and queue the run for the next one, with a new event and without memos.
-- The jobs and waits that the round has left are deleted, with its memos and its attempts. The signals that no wait has
-- received stay. An event that the run has received ends no wait of a later round. When it has received very many, the
-- next round takes only those that came since this round began. The next round of a pinned run belongs to the release that
-- starts new runs of its function, if a worker of it lives.
-- USES     clock jobs waits state concurrency attempts indexes runs deliveries code
-- KEYS     1 run  2 memos  3 memo_order  4 steps  5 attempts  6 delivered  7 signal_ids
-- ARGV     1 now_ms  2 run  3 fence  4 round (that ends)  5 event (of the next round)  6 digest (of the event of this one)
--          7 id_digest (of the event that has started the run; '': noted before)
--          8 keep_version (1: a pinned run stays with its release)
-- MOVES    run running -> queued; continuation leased -> queued|waitlisted;
--          step queued|waitlisted|leased|delayed|waiting|mapping|memo -> none; promote
-- RETURNS  1 CONTINUED, 0 ALREADY, -1 NO_RUN, -2 STALE_FENCE
local MAX_ROUNDS = 20 -- that are kept of a run
local MAX_DELIVERED = 2000 -- received events that a next round remembers
local MAX_SIGNAL_IDS = 10000 -- ids of signals that a next round remembers
local now, run, round, was = clock(ARGV[1]), ARGV[2], tonumber(ARGV[4]), read_run(ARGV[2])
local f = redis.call('HMGET', KEYS[1], 'round', 'round_at', 'rounds')
if not holds_run(was, ARGV[3]) or tonumber(f[1] or 0) ~= round then
  return was.live and tonumber(f[1] or 0) > round and 0 or refusal(was)
end

local steps, rounds, count = redis.call('LLEN', KEYS[3]), {}, 1
rounds[1] = table.concat({round, f[2] or was.started_at, now, steps, ARGV[6]}, ' ')
for line in string.gmatch(f[3] or '', '[^\n]+') do
  if count < MAX_ROUNDS then rounds[#rounds + 1], count = line, count + 1 end
end

-- position 0: before all memos of the next round
local delivered = redis.call('HGETALL', KEYS[6])
local forgets = #delivered / 2 > MAX_DELIVERED and f[2]
for i = 1, #delivered, 2 do
  if delivered[i + 1] ~= '0' then
    redis.call('HSET', KEYS[6], delivered[i], 0)
  elseif forgets then
    redis.call('HDEL', KEYS[6], delivered[i])
  end
end
note_delivery(run, ARGV[7], 0, 0)
if redis.call('SCARD', KEYS[7]) > MAX_SIGNAL_IDS then redis.call('DEL', KEYS[7]) end

local _, jobs = drop_steps(run, was, read_steps(run))
redis.call('DEL', KEYS[2])
redis.call('DEL', KEYS[3])
redis.call('DEL', KEYS[4])
redis.call('DEL', KEYS[5])
redis.call('HDEL', KEYS[1], 'attempt_started_at', 'first_failed_at', 'last_error', 'deaths', 'blocked', 'deferred',
  'left_by', 'undo', 'closing', 'patches', 'unchecked_memos')
redis.call('HSET', KEYS[1], 'round', round + 1, 'round_at', now, 'rounds', table.concat(rounds, '\n'), 'event', ARGV[5],
  'attempt', 0)
if forgets then redis.call('HSET', KEYS[1], 'events_since', f[2] + 1) end
if ARGV[8] ~= '1' and redis.call('HEXISTS', KEYS[1], 'pinned') == 1 then
  local name = was.app .. '/' .. was.function_id
  local release = registered_release(name)
  if release and has_release(name, release, now) then redis.call('HSET', KEYS[1], 'version', release) end
end
release_all_slots(jobs, was, now)
end_lease(run, was, was.list, ARGV[3], now)
requeue_run(run, was, now)
return 1
