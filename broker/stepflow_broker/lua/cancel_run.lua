-- cancel_run: end a run that is not wanted any more, and, unless told otherwise, the children that it waits for.
-- A handler that runs is not interrupted; its result is refused.
-- USES     clock jobs runs invokes
-- KEYS     1 run
-- ARGV     1 now_ms  2 run  3 reason (JSON of a failure)  4 retention_ms  5 with_children (1 or 0)
-- MOVES    queued | running | waiting -> cancelled
-- RETURNS  1 ENDED, 0 ALREADY_ENDED, -1 NO_RUN
local now, retention_ms = clock(ARGV[1]), tonumber(ARGV[4])
local first = read_run(ARGV[2])
if not first.live then return first.status and 0 or -1 end
local runs, n = {ARGV[2]}, 1
while n <= #runs do
  local run = runs[n]
  local was = read_run(run)
  if was.live then
    local owner, children = end_run(run, was, 'cancelled', 'error', ARGV[3], now, retention_ms)
    if owner then redis.call('PUBLISH', INBOX .. owner, 'cancel ' .. run) end
    if ARGV[5] == '1' then
      for _, child in ipairs(children) do runs[#runs + 1] = child end
    end
  end
  n = n + 1
end
for _, run in ipairs(runs) do
  local position, memo, parent, key, was = resolve_by_child(run)
  if position ~= 0 then memo_comes(parent, was, key, position, memo, now, '') end
end
return 1
