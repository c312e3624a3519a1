"""The part of a worker that exists once per partition: dispatcher, router, maintenance and notifications.

A server without partitions has one. On a cluster each partition belongs to one node, and an unreachable node stops only
its own partitions. All partition workers share the slots of the worker.

A dispatcher is in one of these states:

- working: it claims jobs for the free slots whenever there may be jobs.
- idle: it waits for a notification, for the next timer, or for the next poll (1 s with running jobs, 5 s without).
- suspended: RQ is suspended; it claims nothing, and runs return to their queues after the current step.
- stopping: it claims nothing. Running jobs have the grace period to finish; then their leases are released.

Notifications are hints. A lost notification delays a job until the next poll, but loses nothing.

A crash leaves the claimed jobs with their leases. A claim has a number, so a claim that is retried after a lost reply
returns the same jobs.
"""
