"""The client side of an app: send events, start runs, and inspect, cancel, pause and resume them.

This package owns `Client`, the base class of `Stepflow`, which is a `RunStarter`, a `RunFinder`, a `RunController` and
`DelayedEvents`; `Schedules`, which creates and changes schedules; `Run`, the handle of a run; and `Backend`, the
connections to Redis. It executes no user code and keeps no state of
runs: each call sends broker commands and reads their replies.

A handle shows a run in one of these states (`RunStatus`)::

    queued, running, waiting                    live; a run may change between them many times
    completed, failed, cancelled                ended
    skipped                                     ended by flow control before it started

A backend connects on first use: one blocking broker per process (a forked child makes its own) and one asyncio broker
per event loop.

If the process crashes:

- Before the server has executed a command, nothing has happened.
- After that, the event or the run is in Redis and workers process it. The caller may not know. With an ``id``, the
  same call can be repeated within 24 hours and starts nothing twice.
- During `Client.cancel_many`, the runs cancelled so far stay cancelled. The same call cancels the rest.
- During `Schedules.backfill`, the runs started so far stay started. The same call starts the rest.
- During `Client.pause` on a server with several partitions, some partitions may be paused and others not. Repeating
  the call completes the pause.
"""
