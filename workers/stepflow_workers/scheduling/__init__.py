"""Work that is due by time: cron schedules, timers, and the repair of what crashed workers left.

There is no scheduler process. Every worker runs every task for each partition (``MaintenanceLoop``):

- compare the clock of the server with the time that only grows (``ServerClock``): every 2 s;
- fire due timers: at their times, at least every second;
- start the runs of cron schedules (``CronTicker``) and of schedules created at run time (``ScheduleTicker``): every
  second; ask whether the latter have changed: every 2 s;
- process finished runs: every 4 s; take over those of dead workers: every 8 s;
- reclaim expired leases: every 4 s;
- read the pauses, repair jobs that are missing from their queues, and send delayed events that are overdue: every 10 s;
- note again which functions the worker has: every 20 s;
- delete the index entries of expired runs: every 5 minutes.

Each task is an idempotent script that takes what is due. Several workers that run it at once do its work once.

A crash leaves nothing to clean up: what was due stays due, and another worker takes it. The state of a cron schedule is
its last started time. The script that starts the runs moves it on, so each time starts one run.
"""
