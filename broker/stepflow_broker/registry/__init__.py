"""The registry: the functions of all apps, in the form in which Redis stores them.

- ``functions``: the settings of a function, how they are registered and read, and which events start it.
- ``flow_control``: rate limit, throttle, debounce, singleton, batch, concurrency, priority; and the rules that a script
  gets for one start.
- ``cancellation``: events and deadlines that cancel a run.
- ``event_filter``, ``event_values``: what an event must have for a wait, and the digests by which waits are indexed.

A worker registers the functions of its apps when it starts, in every partition. The registry has a version, which each
change increments. A worker that routes an event or starts a child sends the version that it has read; if it is old, the
script refuses the call, and the worker reads the registry again.

A crash of a worker leaves its functions registered. So clients can start runs while no worker is there, and the runs
wait in their queues. If a worker crashes while it registers, some partitions have the new settings and others the old
ones, until a worker with these functions starts.
"""
