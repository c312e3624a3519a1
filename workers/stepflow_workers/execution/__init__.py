"""The execution of jobs: ``run_job`` in ``job_runner.py`` is the pipeline load → replay → perform → commit.

There are two kinds of jobs, and both have the methods ``replay`` and ``commit``:

- A continuation (``RunDriver``) drives the code of a run. It executes single steps itself, starts waits, child runs and
  the jobs of parallel steps (``step_planner.py``), and ends the run (``run_completion.py``).
- A planned step (``PlannedStep``) is the job of one parallel step, or of a retry.

Between two steps a continuation does one of these:

- continue: it executes the next step at once, up to ``sticky`` steps in a row.
- yield: the run returns to its queue.
- hold: it waits for memos with the lease, the code in memory, and no slot, for at most 5 s.
- park: it gives up the lease; the next memo queues the continuation again.
- end: the run completes, fails, or gets another attempt after a delay.

A crash leaves a job whose lease expires, and the memos of the finished steps. The worker that reclaims the job records
a death and replays the code over the memos. A job with two deaths is a poison suspect and runs alone
(``poison_isolation.py``). With three deaths a step fails; with four the run of a continuation fails.
"""
