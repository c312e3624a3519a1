-- end_batch: end the members of an ended batch with the outcome of the batch, and resolve their parents' steps.
-- USES     clock jobs waits state concurrency attempts indexes runs invokes undo cancellation
-- KEYS     1 run (the batch)
-- ARGV     1 now_ms  2 batch  3 limit
-- MOVES    run waiting -> completed|failed|cancelled; continuation batched -> none; step waiting -> memo; wake
-- RETURNS  how many members are still live
local now, batch = clock(ARGV[1]), ARGV[2]
local ended = redis.call('HMGET', KEYS[1], 'status', 'output', 'error', 'finished', 'keep_ms', 'retention_ms',
  'indexed', 'members')
if not ended[1] or LIVE_STATUS[ended[1]] then return 0 end
local field, payload = ended[2] and 'output' or 'error', ended[2] or ended[3]
local _, errors = further_subjects(ended[7])
local members = redis.call('LRANGE', BATCHED .. batch, 0, ARGV[3] - 1)
for _, run in ipairs(members) do
  local was = read_run(run)
  if was.live then
    if errors[1] then note_error(run, string.sub(errors[1], 7)) end
    end_run(run, was, ended[1], field, payload, now, tonumber(ended[6]))
  end
end
if members[1] then
  local ids = table.concat(members, ' ')
  redis.call('HSET', KEYS[1], 'members', ended[8] and ended[8] .. ' ' .. ids or ids)
end
redis.call('LTRIM', BATCHED .. batch, #members, -1)
wake_parents(members, now)
local left = redis.call('LLEN', BATCHED .. batch)
if left == 0 then ack_finished(batch, ended[4], ended[5]) end
return left
