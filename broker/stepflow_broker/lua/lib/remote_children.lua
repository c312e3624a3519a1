-- remote_children: how a step comes to wait for a child.
-- A child that lives in another partition than its parent is `away`. No script touches both, so they are told of one
-- another by messages: entries of the stream of finished events, which stay there until they have been delivered.
--   start <child>   in the parent's: recorded with the wait. The child is made by it, as often as it is delivered, once.
--   cancel <child>  in the parent's: it was cancelled.
--   away <child>    in the child's: it has ended. The step is resolved by it, if it waits still.
-- A step that waits for such a child has its message in the field `<key>:away`, and the child in `asked`. The child is
-- kept until the parent knows of its end, and that is when the message is gone at the latest; so it cannot be made again.

-- why a step cannot be made to wait for a child, as a code; nothing if it can
local function invoke_refusal(run, was, fence, key, version)
  if not holds_run(was, fence) then return refusal(was) end
  if redis.call('HEXISTS', MEMOS .. run, key) == 1 or redis.call('HEXISTS', STEPS .. run, key .. ':state') == 1 then
    return 0
  end
  if tonumber(redis.call('GET', VERSION) or 0) ~= tonumber(version) then return -3 end
end

-- make a step wait for a child until a time, with the timeout key that bounds the wait
local function await_child(run, key, step_id, child, detail, due, timeout_memo)
  redis.call('HSET', STEPS .. run, key, step_id, key .. ':state', 'waiting', key .. ':child', child, key .. ':detail',
    detail, key .. ':due', due)
  redis.call('SET', TIMEOUT .. run .. ':' .. key, timeout_memo)
  redis.call('ZADD', TIMEOUTS, due, 'wait:' .. run .. ':' .. key)
end
