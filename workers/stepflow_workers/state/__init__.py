"""What the parts of one worker share. It imports no other sub-package of the workers.

- ``WorkerState``: the connection, the counters, and what is below.
- ``WorkerSettings``: the settings, which do not change.
- ``Slots``: how many jobs execute at once. A job that waits gives its slot back.
- ``Wakeups``: the dispatchers, which the worker wakes when it queues a job, sets a timer or frees a slot.
- ``RunCache``: suspended runs in memory, which saves a replay.
- ``Pauses`` and ``Registries``: copies of what is paused and which functions exist. The scripts on the server check the
  originals.

A cached run is in one of these states:

- in use: jobs of this worker use it; it is not evicted.
- driven: a continuation of this worker has its lease and may plan steps and end it.
- unused: it stays until the cache is full; the least recently used one is evicted first.
- closed: it ended, or the lease was lost; the next job loads it again.

A crash loses all of this, and nothing of it matters: everything can be read or computed again.
"""
