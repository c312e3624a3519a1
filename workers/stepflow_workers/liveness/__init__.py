"""The leases of running jobs: what proves to other workers that this worker is alive.

- ``HeldLeases`` has the leases of the worker, and copies them to the ``LeaseTable`` in shared memory.
- ``LeaseRenewer`` is a thread. It extends the leases three times per lease, sends RQ's heartbeat, and reports a blocked
  event loop.
- ``LeaseSidecar`` is a process. It extends the leases when no thread of the worker can run.

A worker is in one of these states:

- healthy: the renewer extends the leases.
- loop blocked: a handler blocks the event loop; the renewer still extends the leases.
- blocked: a handler keeps the GIL; the sidecar extends the leases.
- stopped or dead: by SIGSTOP, a debugger or a crash; the leases expire.

A crash leaves leases that expire within ``lease_ms``. The sidecar ends with its worker. Another worker then
reclaims the jobs.
"""
