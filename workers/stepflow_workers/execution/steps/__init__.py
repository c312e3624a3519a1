"""One module for each kind of step: ``run``, ``wait`` (also sleeps), ``send`` and ``invoke``. ``job`` is a step's job.

A step that the code has reached is one ``StepAttempt``: the run, the lease, the call in the code, and its request.

- ``run.execute_step`` calls a handler once. The result is ``StepFinished``, with the memo to store, or ``StepRetry``.
- ``wait.start_wait`` stores a wait and checks recent events.
- ``send.send_step_events`` sends the events and stores the memo in one script.
- ``invoke.invoke_children`` starts child runs.
- ``job.PlannedStep`` is the job of a parallel step, or of a retry.

Each of them changes Redis in one script with the fence of the lease, so a worker that has lost its lease changes
nothing. Starting a step twice has no effect: the ids of waits, events and child runs derive from the run and the step.

A crash before the script leaves no trace of the step, and it starts again. A crash of a handler, before its memo is
stored, lets the handler run again with the same idempotency key.
"""
