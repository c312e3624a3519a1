-- remote_children: how a step starts to wait for a child.
-- A remote child lives in another partition than its parent. No script can touch both partitions, so messages connect
-- them: entries of the stream of finished events, which stay there until a worker has delivered them.
--   start <child>       in the parent's partition, recorded with the wait. Its delivery creates the child, once.
--   cancel <child>      in the parent's partition: the child's parent, or the step that waits for it, was cancelled.
--   remote_run <child>  in the child's partition: the child has ended. Its delivery resolves the step.
-- The step's field `<key>:message` and the child's field `start_message` have the id of the start message. The child is
-- kept until its parent knows that it has ended. The start message is deleted at that time at the latest, so no later
-- delivery creates the child again.

-- why a step cannot start to wait for a child: a status code; nil if it can. An item of a map starts it by its own job.
local function invoke_refusal(run, was, fence, key, version)
  if #key >= 56 then
    if redis.call('HGET', STEPS .. run, key .. ':state') == 'waiting' then return 0 end
    if not holds_step(run, key, fence) then return refusal(was) end
  elseif not holds_run(was, fence) then
    return refusal(was)
  elseif redis.call('HEXISTS', MEMOS .. run, key) == 1 or redis.call('HEXISTS', STEPS .. run, key .. ':state') == 1 then
    return 0
  end
  if tonumber(redis.call('GET', VERSION) or 0) ~= tonumber(version) then return -3 end
end

-- make a step wait for a child for some time, with the timeout key that bounds the wait
local function await_child(run, key, step_id, child, detail, now, timeout_ms, timeout_memo)
  local due = now + timeout_ms
  redis.call('HSET', STEPS .. run, key, step_id, key .. ':state', 'waiting', key .. ':child', child, key .. ':detail',
    detail, key .. ':due', due, key .. ':began', now)
  redis.call('SET', TIMEOUT .. run .. ':' .. key, timeout_memo)
  redis.call('ZADD', TIMEOUTS, due, 'wait:' .. run .. ':' .. key)
end
