-- extend_leases: extend the leases of jobs that a worker executes, and their concurrency slots.
-- A lease is lost when a slot of its job has expired and another job has taken it. The extension of a continuation also
-- stores which step it executes, so that a short step costs no round trip.
-- USES     clock jobs state concurrency
-- KEYS     1 leases
-- ARGV     1 now_ms  2 lease_ms  3.. job, fence, executing ('<since> <step key> <step id>'; '': no report), ...
-- MOVES    none
-- RETURNS  list of the jobs whose lease is lost
local expiry, lost = clock(ARGV[1]) + tonumber(ARGV[2]), {}
local shown_until = math.floor(expiry / 1000) + RQ_GRACE_S
for i = 3, #ARGV, 3 do
  local job, fence = ARGV[i], ARGV[i + 1]
  local run, key = split_job(job)
  local was = read_run(run)
  local held = key == '' and holds_run(was, fence) or key ~= '' and holds_step(run, key, fence)
  if held and (not was.concurrency or extend_slots(job, was, expiry)) then
    redis.call('ZADD', KEYS[1], expiry, job)
    local list = key == '' and was.list or list_of_step(run, was, key)
    if ARGV[i + 2] ~= '' and key == '' then redis.call('HSET', RUN .. run, 'executing', fence .. ' ' .. ARGV[i + 2]) end
    redis.call('ZADD', RQ_WIP .. list, 'XX', shown_until, job .. ':' .. fence)
  else
    lost[#lost + 1] = job
  end
end
return lost
