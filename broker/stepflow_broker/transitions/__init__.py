"""The transitions: one function for each script, and the reads of what the scripts store.

- ``runs``: start, load, finish, retry and cancel a run. ``batches`` and ``bulk_cancel`` are for several runs.
- ``jobs``: claim, extend, release and reclaim jobs; commit and plan steps; fire timers.
- ``invokes``, ``remote_invokes``, ``outbox``: child runs in the same and in other partitions, and the messages between
  partitions.
- ``events``, ``waits``: the stream of events, its routing, and the waits that events end.
- ``schedules``, ``pauses``: cron schedules, and what is paused.

The states and the moves of each transition are in `stepflow_engine.state_machine`. A function here sends nothing: it
returns a `Command`, which a broker executes. A transition with the fence of a lease changes nothing when another worker
has the lease.

A crash between two transitions leaves a state that something ends: a lease expires, a timer fires, a queued job is
claimed, a message stays in the outbox until it is delivered.
"""
