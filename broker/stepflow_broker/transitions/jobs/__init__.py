"""Jobs: claim them, guard them by leases, and queue, delay or park the continuations of runs.

``job_claims``, ``leases``, ``continuations`` and ``timers``. What a crash leaves behind is a lease, which ends.
"""
