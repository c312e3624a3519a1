-- cancel_run: cancel a live run and, with `with_children`, the children that it waits for.
-- A handler that is executing is not interrupted. Its result is refused. A run with something to undo ends when that is
-- done. A run that undoes already is not changed.
-- USES     clock jobs waits state concurrency attempts indexes runs invokes undo cancellation audit
-- KEYS     1 run
-- ARGV     1 now_ms  2 run  3 reason (JSON of a failure)  4 retention_ms  5 with_children (1 or 0)
--          6 who ('': not audited)  7 audited reason
-- MOVES    cancel
-- RETURNS  1 ENDED (or it undoes its steps, and ends then), 0 ALREADY (ended, or undoes already), -1 NO_RUN
local first = read_run(ARGV[2])
if not first.live then return first.status and 0 or -1 end
if undo_plan(ARGV[2]) == 'begun' then return 0 end
cancel_tree(ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5] == '1', clock(ARGV[1]))
audit(ARGV[6], 'cancel', ARGV[2], ARGV[7], '{}')
return 1
