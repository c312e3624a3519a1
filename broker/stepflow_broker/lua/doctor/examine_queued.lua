-- examine_queued: look at jobs that the truth says are ready: is each on its list, once? With `repair`, see to it.
-- USES     clock jobs state concurrency findings
-- KEYS     1 live (any key of the partition)
-- ARGV     1 now_ms  2 repair (1 or 0)  3.. jobs
-- MOVES    none
-- RETURNS  list of {code, subject, detail, 1 REPAIRED | 0 FOUND}
local now = clock(ARGV[1])
repairs = ARGV[2] == '1'
for i = 3, #ARGV do
  local job = ARGV[i]
  local state, _, was = truth_of(job)
  if state == 'queued' and was.queue then
    local both = {was.queue, list_of(was.queue, true)}
    local times = 0
    for _, list in ipairs(both) do times = times + #redis.call('LPOS', RQ_QUEUE .. list, job, 'COUNT', 2) end
    if times ~= 1 then
      report(times == 0 and 'job_missing' or 'job_duplicated', job, was.queue, function()
        for _, list in ipairs(both) do redis.call('LREM', RQ_QUEUE .. list, 0, job) end
        local list, name = place_and_name(job, was)
        push_job(job, list, name, now, true)
      end)
    end
  end
end
return findings
