-- release_jobs: put leased jobs back at the front of their lists, so that any worker can claim them at once.
-- USES     clock jobs waits state concurrency attempts indexes runs
-- KEYS     1 leases
-- ARGV     1 now_ms  2.. job, fence, ...
-- MOVES    run running -> queued; continuation leased -> queued|waitlisted; step leased -> queued|waitlisted; promote
-- RETURNS  the number of released jobs
local now, count = clock(ARGV[1]), 0
for i = 2, #ARGV, 2 do
  local job, fence = ARGV[i], ARGV[i + 1]
  local run, key = split_job(job)
  local was = read_run(run)
  if key == '' and holds_run(was, fence) then
    end_lease(job, was, was.list, fence, now)
    requeue_run(run, was, now, true)
    count = count + 1
  elseif key ~= '' and holds_step(run, key, fence) then
    end_lease(job, was, list_of_step(run, was, key), fence, now)
    requeue_step(run, was, key, now, true)
    count = count + 1
  end
end
return count
