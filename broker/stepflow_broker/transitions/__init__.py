"""Transitions: every change of stored state. One Lua script is one transition and one function of the same name.

===============  ================================================================================
`runs`           start, read, cancel, fork and end whole runs, one or many
`jobs`           claim jobs, their leases, the continuations of runs, timers, repair
`steps`          plan and commit steps; sleeps, waits, signals, asks, maps
`invokes`        start a child and wake its parent; between two partitions, through the outbox
`events`         the stream of events, its routing, delayed events, events that are set aside
`schedules`      schedules in code and at run time
`pauses`         pause and resume functions, queues and keys
`limits`         limits of flow control that were changed by hand
`audit`          the audit log
===============  ================================================================================

A function returns a `Command`; it does no I/O. A sequence of commands is an `Operation`. Each function takes a
`Partition` first. A function that names a run, a job or a batch takes any partition of the server and acts in that of
the run. The others act in the partition that they are given.

The states of runs, continuations and steps are in `stepflow_engine.state_machine`. Each script checks everything first
and writes after that. Redis executes it alone and completely, so a crash of a worker leaves a run before a transition
or after it, never in between. It can leave a lease, which expires and is reclaimed, an entry on a stream, which another
worker takes over, and the members of a batch that are not ended yet, which another worker ends.

A command may be sent twice, because a reply can get lost. The second time it changes nothing.

This package imports `redis_client`, `registry` and `protocol`. The views and the doctor import it.
"""
