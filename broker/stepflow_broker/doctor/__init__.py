"""The doctor: examines a server and the data on it, and repairs the data.

- ``server``, ``node``: settings, version, replicas, clock, memory and rights of a server and of each cluster node.
- ``examine``: the data of all runs, in pages. The hash of a run and its memos are the truth; queues, leases, timers,
  waits and indexes must agree with it.
- ``backlog``: overdue leases, timers, streams, and queues without a worker.
- ``remote_waits``, ``wait_counts``: facts that no single script can see.
- ``findings``: the table of findings with their severity, sentence and repair.

A finding is ok, a warning, or an error. An error is open until ``--repair`` repairs it.

Workers may run meanwhile. A script compares each thing with all that it must agree with, so a finding is never a
half-done change. What takes longer than a script is confirmed by one before it is reported.

If the doctor crashes, the repairs so far stay. Each repair is one script, and it is safe to repeat all of them.
"""
