"""The worker processes: each is an RQ worker with an asyncio event loop.

A job goes through one pipeline: claim → load → replay → perform → commit. The sub-packages, from the top:

- ``partition``: the dispatchers, which claim jobs, and the notifications that wake them.
- ``execution``: the pipeline from load to commit, and the isolation of poison suspects.
- ``scheduling``: cron schedules and periodic maintenance.
- ``consumers``: the streams of events and of finished runs.
- ``liveness``: the leases of running jobs, and the process that extends them when the worker cannot.
- ``state``: what all of these share: settings, slots, the run cache, pauses and the registry of functions.

``worker.py`` builds the parts of one worker and connects them. ``pool.py`` runs several workers and restarts those that
die. ``log_events.py`` lists the log events.

A worker stores nothing that matters in its memory. When it dies, Redis has the memos of the finished steps, and jobs
whose leases expire. Other workers reclaim the jobs and replay the code over the memos. A step whose handler had
finished, but whose memo was not yet stored, runs again.
"""
