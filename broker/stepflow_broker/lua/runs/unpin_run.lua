-- unpin_run: let workers of any release execute a pinned run.
-- USES     clock jobs state concurrency truth code audit
-- KEYS     1 run  2 code_waits
-- ARGV     1 now_ms  2 run  3 who  4 reason
-- MOVES    promote
-- RETURNS  1 UNPINNED, 0 NOT_PINNED, -1 NO_RUN (there is none, or it has ended)
local now, run, was = clock(ARGV[1]), ARGV[2], read_run(ARGV[2])
if not was.live then return -1 end
if redis.call('HDEL', KEYS[1], 'pinned') == 0 then return 0 end
for _, job in ipairs(jobs_of(run, was)) do
  for _, subject in ipairs(job.state == 'waitlisted' and redis.call('SMEMBERS', KEYS[2]) or {}) do
    local left_by = string.match(subject, '^.-\n.-\n(.*)$')
    if release_of(left_by) and redis.call('ZREM', WAIT_LIST .. 'code ' .. subject, job.id) == 1 then
      promote(job.id, 'code ' .. subject, now)
    end
  end
end
audit(ARGV[3], 'unpin', run, ARGV[4], '{}')
return 1
