-- fork_run: create a run with memos of another run of the same partition, once. Flow control may delay or skip it.
-- The caller names the memos to keep, in their order. It sends the text of those that are not copied as they are. A text
-- that begins with a comma is more JSON for the end of the copy.
-- An event that has ended a kept wait ends no later wait of the new run.
-- USES     clock jobs waits state concurrency attempts indexes runs invokes undo cancellation start_rules deliveries audit
-- KEYS     1 run (the new one)
-- ARGV     1 now_ms  2 run  3 source  4 app  5 function  6 queue  7 dedupe_ms  8 retention_ms  9 event ('': that of the
--          source)  10 forked_at  11 forked_by  12 keys_of (the run whose idempotency keys it uses; '': its own)
--          13 who ('': not audited)  14 action  15 reason  16 details (JSON)
--          17 takes_events (1: its waits also take events that came since the source was created; 0)
--          18 only_first (1: not if the source has a fork; 0)  19 patches (JSON; '': none)
--          20 unchecked_memos (how many memos need not fit the code)  21 memos: how many
--          22.. step_key, memo ('': copied; ',...': copied, with more), ... then rules (see read_rules)
-- MOVES    start; step none -> memo
-- RETURNS  1 STARTED, 0 ALREADY_STARTED, 3 SKIPPED, -1 NO_RUN (the source, or a memo to copy, does not exist),
--          -6 FORKED (the source has another fork)
local MAX_FORKS = 20 -- of a run, that it names
local now, run, source, count = clock(ARGV[1]), ARGV[2], ARGV[3], tonumber(ARGV[21])
if redis.call('EXISTS', RUN .. run) == 1 then return 0 end
local was = redis.call('HMGET', RUN .. source, 'event', 'forks', 'events_since', 'created_at', 'undo', 'round')
if not was[1] then return -1 end
if ARGV[18] == '1' and was[2] then return -6 end
local memos = {}
for i = 1, count do
  local key, memo = ARGV[20 + 2 * i], ARGV[21 + 2 * i]
  if memo == '' or string.sub(memo, 1, 1) == ',' then
    local copy = redis.call('HGET', MEMOS .. source, key)
    memo = copy and (memo == '' and copy or string.sub(copy, 1, -2) .. memo .. '}')
  end
  if not memo then return -1 end
  memos[i] = {key, memo}
end
local more = {'dedupe_ms', ARGV[7], 'forked_from', source, 'forked_at', ARGV[10], 'forked_by', ARGV[11]}
if ARGV[12] ~= '' then add_field(more, 'keys_of', ARGV[12]) end
if ARGV[17] == '1' then add_field(more, 'events_since', was[3] or was[4]) end
if was[5] then add_field(more, 'undo', was[5]) end
if was[6] then add_field(more, 'round', was[6]) end
if ARGV[19] ~= '' then add_field(more, 'patches', ARGV[19]) end
if ARGV[20] ~= '0' then add_field(more, 'unchecked_memos', ARGV[20]) end
local event = ARGV[9] ~= '' and ARGV[9] or was[1]
local forks = {run}
for fork in string.gmatch(was[2] or '', '%S+') do
  if #forks < MAX_FORKS then forks[#forks + 1] = fork end
end
-- before the start: a singleton may cancel the source, which is gone then if it is not kept
redis.call('HSET', RUN .. source, 'forks', table.concat(forks, ' '))
local left_ms = redis.call('PTTL', RUN .. source)
if left_ms >= 0 and left_ms < tonumber(ARGV[8]) then expire_run(source, ARGV[8]) end -- the fork names it
local deliveries = deliveries_of(source)
audit(ARGV[13], ARGV[14], source, ARGV[15], ARGV[16])
if not start_or_skip(run, ARGV[4], ARGV[5], ARGV[6], event, now, more, tonumber(ARGV[8]), (read_rules(22 + 2 * count)))
then return 3 end
for _, digest in ipairs(deliveries[''] or {}) do note_delivery(run, digest, 0, 0) end
for position, memo in ipairs(memos) do
  redis.call('HSET', MEMOS .. run, memo[1], memo[2])
  redis.call('RPUSH', MEMO_ORDER .. run, memo[1])
  for _, digest in ipairs(deliveries[memo[1]] or {}) do note_delivery(run, digest, 0, position) end
end
return 1
