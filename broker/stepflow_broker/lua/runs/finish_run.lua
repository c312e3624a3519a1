-- finish_run: end a run whose code has returned or failed.
-- The failed event starts functions that subscribe to failures. A run that fails, and has something to undo, does not end
-- yet: it is queued to undo its steps, and stores the failed event for its end.
-- USES     clock jobs waits state concurrency attempts indexes runs undo
-- KEYS     1 run  2 events
-- ARGV     1 now_ms  2 run  3 fence  4 status  5 field (output or error)  6 payload  7 retention_ms
--          8 failed_event ('': none)  9 event_id (of the failed event)
--          10 version (of the worker's code; '': that of the run)  11 group (of the error; '': none)
--          12 step (in which the code failed; '': between steps)  13 name  14 message (of the error)
-- MOVES    run running -> completed|failed|queued; continuation leased -> none|queued|waitlisted;
--          step queued|waitlisted|leased|delayed|waiting|mapping -> none; promote
-- RETURNS  1 ENDED, 2 UNDOING, 0 ALREADY_ENDED, -1 NO_RUN, -2 STALE_FENCE
local run, was = ARGV[2], read_run(ARGV[2])
if not holds_run(was, ARGV[3]) then return was.status == ARGV[4] and 0 or refusal(was) end
local now, retention_ms = clock(ARGV[1]), tonumber(ARGV[7])

-- before the end, with which a run that is not kept is gone
local function note_version()
  if ARGV[10] ~= '' then redis.call('HSET', KEYS[1], 'ended_version', ARGV[10]) end
end

local has_more = was.concurrency or was.singleton or was.cancel_events or redis.call('EXISTS', STEPS .. run) == 1
if ARGV[4] == 'completed' and not has_more then
  note_version()
  drop_lease(run, was.list, was.lease)
  close_run(run, was, 'completed', ARGV[5], ARGV[6], now, retention_ms)
  return 1
end
-- REST: a run that fails, that leaves steps, or that has flow control or cancellation
local GROUP_MS = 30 * 86400000 -- how long a group of errors is kept after its last
local MAX_GROUPS = 1000
local group = ARGV[11]
if group ~= '' then
  note_error(run, group)
  redis.call('HINCRBY', ERROR_GROUP .. group, 'count', 1)
  redis.call('HSETNX', ERROR_GROUP .. group, 'first', now)
  redis.call('HSET', ERROR_GROUP .. group, 'last', now, 'run', run, 'function', was.app .. '/' .. was.function_id, 'step',
    ARGV[12], 'name', ARGV[13], 'message', ARGV[14])
  redis.call('PEXPIRE', ERROR_GROUP .. group, GROUP_MS)
  redis.call('ZADD', ERROR_GROUPS, now, group)
  redis.call('ZREMRANGEBYSCORE', ERROR_GROUPS, '-inf', now - GROUP_MS)
  for _, oldest in ipairs(redis.call('ZRANGE', ERROR_GROUPS, 0, -MAX_GROUPS - 1)) do
    redis.call('DEL', ERROR_GROUP .. oldest)
    redis.call('ZREM', ERROR_GROUPS, oldest)
  end
end
if ARGV[4] == 'failed' and undo_plan(run) == 'due' then
  begin_undo(run, was, 'failed', ARGV[6], now)
  if ARGV[8] ~= '' then redis.call('HSET', KEYS[1], 'failed_event', ARGV[8], 'failed_event_id', ARGV[9]) end
  return 2
end
note_version()
end_run(run, was, ARGV[4], ARGV[5], ARGV[6], now, retention_ms)
-- nobody else deletes the entries of runs that are gone
if ARGV[4] == 'failed' then redis.call('ZREMRANGEBYSCORE', RQ_FAILED .. was.queue, '-inf', math.floor(now / 1000) - 1) end
if ARGV[8] ~= '' then redis.call('XADD', KEYS[2], '*', 'event', ARGV[8], 'id', ARGV[9], 'dedupe', 0) end
return 1
