"""The log events of stepflow: level, fields, meaning, and what to do.

A test compares this table with every logging call of all packages, and with the reference in the documentation.
"""

from __future__ import annotations

from dataclasses import dataclass

from stepflow_engine.product import NAME

__all__ = ["LOG_EVENTS", "LogEvent"]


@dataclass(frozen=True, slots=True)
class LogEvent:
    """One event in the log.

    Attributes:
        name: the first word of the message.
        levels: the levels at which it is logged.
        fields: the names of its fields. A field may be missing where the event has several causes.
        meaning: what happened.
        action: what to do; empty: nothing.
    """

    name: str
    levels: tuple[str, ...]
    fields: tuple[str, ...]
    meaning: str
    action: str = ""


_INFO, _WARNING, _ERROR = ("INFO",), ("WARNING",), ("ERROR",)
_RETRIES = "Check the server and the network. The worker retries."

_EVENTS = (
    # -- the worker
    LogEvent("worker_started", _INFO, ("worker", "queues", "redis", "version"), "The worker is ready to claim jobs."),
    LogEvent(
        "worker_not_started",
        _ERROR,
        ("error",),
        "A process of a pool could not start.",
        "Correct the configuration that the error names.",
    ),
    LogEvent(
        "worker_stopping", _INFO, ("worker", "jobs"), "The worker claims no more jobs and finishes its running ones."
    ),
    LogEvent(
        "worker_recycled",
        _INFO,
        ("worker", "reason", "jobs", "memory_mib"),
        "The worker has reached --max-jobs or --max-memory. It stops, and a new process takes its place.",
    ),
    LogEvent(
        "handler_process_ended",
        _WARNING,
        ("run_id", "function", "step_id", "pid", "why"),
        "The process of an isolated handler has ended before the handler, or the worker has ended it: the handler was "
        "over its time or its memory limit, or its run was cancelled. The attempt fails; nothing else is affected.",
        "If why is an exit code or a signal, look for the cause in the handler.",
    ),
    LogEvent(
        "worker_stopped_at_once",
        _WARNING,
        ("worker",),
        "A second signal ended the worker, or it had not stopped 5 s after the grace period. Other workers reclaim its "
        "jobs when the leases expire.",
    ),
    LogEvent(
        "tasks_left",
        _WARNING,
        ("count",),
        "Tasks that handlers left behind do not end when they are cancelled. The worker stops without them.",
        "Let the handler await its tasks, and do not catch `CancelledError`.",
    ),
    LogEvent(
        "threads_left",
        _WARNING,
        ("count", "threads"),
        "Threads that handlers started still run. The worker ends its process. `threads` lists at most 10.",
        "Make the threads daemons, or let the handler wait for them.",
    ),
    LogEvent(
        "exit_blocked",
        _WARNING,
        (),
        "A function that user code has registered with `atexit` still runs 5 s after the worker stopped. The worker "
        "ends its process.",
        "Let the function end soon.",
    ),
    LogEvent(
        "worker_killed",
        _WARNING,
        ("pid",),
        "A worker of the pool has not ended 8 s after the grace period: its code keeps the GIL, or it ignores SIGTERM. "
        "The pool kills it. Other workers reclaim its jobs when the leases expire.",
        "Move long computations in native code to a process of their own.",
    ),
    LogEvent(
        "jobs_released",
        _WARNING,
        ("count",),
        "Handlers took longer than the grace period. Their jobs are back in the queues and run again.",
        "Increase the grace period, or make the handlers shorter.",
    ),
    LogEvent(
        "exit_ignored",
        _WARNING,
        ("error",),
        "A task of user code raised `SystemExit` or `KeyboardInterrupt`. The worker continues.",
        "Remove the call of `sys.exit` from the functions of the app.",
    ),
    LogEvent(
        "worker_deregister_failed",
        _WARNING,
        ("error",),
        "The worker could not delete its registration. RQ shows the worker for up to 30 s more.",
    ),
    LogEvent(
        "worker_reregistered",
        _WARNING,
        ("worker",),
        "The server had lost the registration of this worker, by a failover or an outage.",
        f"Run `{NAME} doctor`: the server may have lost other data too.",
    ),
    LogEvent(
        "annotation_unresolved",
        _WARNING,
        ("handler", "error"),
        "The return annotation of a step's handler names something unknown. Its result stays plain JSON data.",
        "Import the name outside of TYPE_CHECKING, at the top of the module.",
    ),
    LogEvent("suspended", _INFO, (), "RQ is suspended. The worker claims no jobs."),
    LogEvent("resumed", _INFO, (), "RQ is no longer suspended."),
    # -- the connection to the server
    LogEvent(
        "server_refuses",
        _WARNING,
        ("right", "error"),
        "The server refuses the user, the certificate or a right of a worker that has started. Once a minute.",
        "Restore the password, the certificate or the right that the line names. The worker retries.",
    ),
    LogEvent(
        "sentinel_disagrees",
        _WARNING,
        ("sentinel", "primary", "named", "used"),
        "A sentinel names another primary than most of the sentinels. The process uses the one that most name.",
        "Look at that sentinel: it was cut off, or it belongs to another installation. Correct it or the URL.",
    ),
    LogEvent(
        "server_unsafe",
        _WARNING,
        ("error",),
        "The server has a setting with which no worker starts, such as an eviction policy. Once a minute.",
        "Do what the error says, at once: an evicted key is a lost run. Then run the doctor.",
    ),
    LogEvent(
        "partitions_unavailable",
        _WARNING,
        ("partitions", "error"),
        "A cluster has lost the nodes of these partitions, and the worker starts without them.",
        "Bring the nodes back, or replace them. The worker takes the partitions up by itself.",
    ),
    LogEvent("partition_available", _INFO, ("partition",), "The worker has taken up a partition that was unavailable."),
    LogEvent(
        "worker_not_registered",
        _WARNING,
        ("worker", "error"),
        "A cluster has lost the node with RQ's register of workers. The worker works, and no list shows it.",
        "Bring the node back. The worker registers by itself, and checks then whether another one has its name.",
    ),
    LogEvent("server_unavailable", _WARNING, ("error",), "The server did not answer a claim.", _RETRIES),
    LogEvent("routing_interrupted", _WARNING, ("error",), "The worker could not read or route events.", _RETRIES),
    LogEvent("notifications_interrupted", _WARNING, ("error",), "The subscription to notifications ended.", _RETRIES),
    LogEvent("commands_interrupted", _WARNING, ("error",), "The subscription to RQ's commands ended.", _RETRIES),
    LogEvent("heartbeat_failed", _WARNING, ("error",), "RQ's heartbeat could not be sent.", _RETRIES),
    LogEvent("maintenance_failed", _ERROR, ("error",), "A periodic task failed.", _RETRIES),
    LogEvent(
        "message_not_understood",
        _WARNING,
        ("channel", "error"),
        "A malformed message was published on a pub/sub channel. The worker ignored it.",
        "Find the client that published it.",
    ),
    # -- leases and liveness
    LogEvent(
        "lease_lost",
        _WARNING,
        ("run_id", "function"),
        "The worker was paused or disconnected for longer than a lease. Another worker has the run.",
    ),
    LogEvent("lease_not_extended", _WARNING, ("error",), "The server did not extend the leases.", _RETRIES),
    LogEvent(
        "jobs_reclaimed",
        _WARNING,
        ("count", "jobs"),
        "Leases expired, so a worker died or hung. Its jobs are back in their queues. `jobs` lists at most 10.",
        "Find out why the worker died.",
    ),
    LogEvent(
        "jobs_repaired",
        _WARNING,
        ("count", "jobs"),
        "Jobs were missing from their queues and were put back. `jobs` lists at most 10.",
        "Find out what removed them, such as a plain `rq worker` on the same queue.",
    ),
    LogEvent(
        "server_clock_came_back",
        _WARNING,
        ("mended",),
        "The clock of the server was ahead and is right again. `mended` runs and timers from that time count from now.",
        "Use NTP on the machine of the server.",
    ),
    LogEvent(
        "foreign_jobs",
        _WARNING,
        ("queue", "count"),
        "A queue has jobs of another program that uses RQ. The worker leaves them there. It logs this once a minute.",
        "Give the other program another queue, or start an `rq worker` for its jobs.",
    ),
    LogEvent(
        "loop_blocked",
        _WARNING,
        ("file", "line", "function_name", "calls"),
        "User code blocks the event loop for more than a second. The message names its line; `calls` is what it calls.",
        "Make the handler a plain `def`, which runs in a thread.",
    ),
    LogEvent(
        "task_factory_ignored",
        _WARNING,
        ("factory",),
        "User code has set a task factory on the event loop of a worker. It is not used.",
        "Remove the call. A run must see each of its tasks from its start.",
    ),
    LogEvent("loop_unblocked", _WARNING, ("blocked_s",), "The event loop runs again."),
    LogEvent(
        "leases_given_up",
        _ERROR,
        ("jobs", "blocked_s"),
        "The event loop has not run for five minutes. Its leases are not extended, and other workers take the jobs.",
        "Find what blocks the loop: `loop_blocked` names the line. Kill the worker.",
    ),
    LogEvent(
        "worker_blocked",
        _WARNING,
        ("worker", "worker_pid", "jobs"),
        "A handler keeps the GIL, so no thread of the worker runs. The lease sidecar extends its leases.",
        "Run such code in a process pool. `loop_blocked` names the line afterwards.",
    ),
    LogEvent(
        "worker_recovered",
        _WARNING,
        ("worker", "held_s"),
        "The worker runs again and extends its leases itself.",
    ),
    LogEvent(
        "lease_sidecar_not_started",
        _WARNING,
        ("error",),
        "The lease sidecar could not start. Until it runs, a handler that keeps the GIL loses its lease.",
        "Check the limits on processes and memory. The worker retries within ten seconds.",
    ),
    LogEvent(
        "lease_sidecar_died",
        _WARNING,
        ("exit_code",),
        "The lease sidecar ended. The worker starts it again.",
        "Check whether something kills it, such as the OOM killer.",
    ),
    # -- runs and jobs
    LogEvent(
        "run_ended",
        ("INFO", "WARNING"),
        ("run_id", "function", "status", "error"),
        "A run has completed (INFO), failed, or ended after its steps were undone (WARNING). `error` has the name and "
        "the message of the exception; only the name if the app encrypts.",
        f"If it failed: `{NAME} runs show RUN` prints the traceback.",
    ),
    LogEvent(
        "run_undo_started",
        _WARNING,
        ("run_id", "function", "error"),
        "A run has failed for good. Before it ends, the undo handlers of its completed steps run.",
        f"`{NAME} explain RUN` shows how far it is.",
    ),
    LogEvent(
        "run_undoing",
        _INFO,
        ("run_id", "function", "status", "count"),
        "A worker undoes the steps of a run that will end with `status`. `count` steps have an undo handler, those "
        "already undone included.",
    ),
    LogEvent(
        "run_continued",
        _INFO,
        ("run_id", "function", "round"),
        "The code of a run has continued as new: the run is queued for round `round`.",
    ),
    LogEvent(
        "undo_failed",
        _ERROR,
        ("run_id", "function", "step_id", "error"),
        "The undo handler of a step has failed for good. The other steps of the run were undone. Without `step_id`: no "
        "undo handler could run.",
        f"Undo the step by hand. `{NAME} runs show RUN` prints the error, and `{NAME} doctor` lists the run.",
    ),
    LogEvent(
        "attempt_failed",
        _INFO,
        ("run_id", "function", "step_id", "attempt", "retry_in", "error"),
        "An attempt of a step failed and is tried again. Without `step_id`: of the code between steps.",
        f"`{NAME} runs show RUN` prints the traceback while the run waits for the next attempt.",
    ),
    LogEvent(
        "bulk_started",
        _INFO,
        ("bulk", "function", "runs", "who"),
        "A worker has begun to run many runs again.",
    ),
    LogEvent(
        "bulk_ended",
        _INFO,
        ("bulk", "function", "state", "runs", "done", "skipped", "refused"),
        "A bulk has run all of its runs again, or was stopped.",
    ),
    LogEvent(
        "bulk_interrupted",
        _WARNING,
        ("bulk", "function", "error"),
        "The server did not answer while the worker ran many runs again, or the bulk is damaged. Once a minute.",
        _RETRIES,
    ),
    LogEvent(
        "run_requeued",
        _INFO,
        ("run_id", "function", "new_run_id"),
        "RQ's tools have requeued a run that failed. It was retried as a new run.",
    ),
    LogEvent(
        "requeue_refused",
        _WARNING,
        ("run_id", "function", "error"),
        "RQ's tools have requeued a run that cannot be retried. Its job is in RQ's registry of failed jobs again.",
        "Do what the error says.",
    ),
    LogEvent("cron_fired", _INFO, ("function", "runs"), "A cron schedule started runs."),
    LogEvent(
        "schedule_fired",
        _INFO,
        ("schedule", "function", "runs"),
        "A schedule that was created at run time started runs.",
    ),
    LogEvent(
        "schedule_not_readable",
        _WARNING,
        ("schedule", "error"),
        "This worker cannot decrypt the data of a schedule, whose runs are due. It tries again once a minute.",
        "Give the worker the encryption key that the error names, or create the schedule again.",
    ),
    LogEvent(
        "code_missing",
        _WARNING,
        ("function", "count"),
        "This worker does not have the function of some jobs. It left them to workers that have it. One line a "
        "minute for each function.",
        "Nothing, during a deployment. Else start a worker that has the function, or cancel its runs.",
    ),
    LogEvent(
        "payload_decryption_failed",
        _WARNING,
        ("run_id", "event_id", "error"),
        "This worker cannot decrypt a run or an event. It left it to other workers.",
        "Give the worker the key that the error names.",
    ),
    LogEvent(
        "run_corrupt",
        _WARNING,
        ("run_id", "error"),
        "Another program changed the data of the run. It has failed with `CorruptDataError`, which names the step.",
        f"Find the program. `{NAME} doctor` examines the other runs.",
    ),
    LogEvent(
        "planned_step_not_found",
        _WARNING,
        ("run_id", "step_id"),
        "The code of this worker does not call a planned step. It left the job to workers with other code. One line a "
        "minute for each function.",
        "Nothing, during a deployment. Else bring the step back, or cancel the run.",
    ),
    LogEvent(
        "history_differs",
        _WARNING,
        ("run_id", "function", "recorded", "requested", "on_mismatch"),
        "The code of a run does not request steps that its history records. One line for each run and version of the "
        "code. What becomes of the run, on_mismatch says: it goes on, is set aside, or fails.",
        "Compare the steps that were recorded with those that are requested, which have the file and the line. Bring "
        "the old code back, or keep the old way with `ctx.patched`.",
    ),
    LogEvent(
        "poison_suspect_isolated",
        _WARNING,
        ("job", "deaths"),
        "Workers died with this job. It runs alone in this worker.",
        "Find out why, before it fails as poison.",
    ),
    LogEvent(
        "job_interrupted",
        _WARNING,
        ("job", "error"),
        "The server was unreachable for too long. A worker reclaims the job.",
        "Check the server and the network.",
    ),
    LogEvent(
        "job_internal_error",
        _ERROR,
        ("job",),
        "An internal error, with a traceback. It counts as a failed attempt of the step, or of the function.",
        "Report it.",
    ),
    LogEvent(
        "dispatcher_internal_error",
        _ERROR,
        (),
        "An internal error, with a traceback. The worker continues after a second.",
        "Report it.",
    ),
    # -- events and messages
    LogEvent(
        "routing_internal_error",
        _ERROR,
        (),
        "An internal error, with a traceback. Routing continues after a second.",
        "Report it.",
    ),
    LogEvent(
        "event_dropped",
        _ERROR,
        ("entry", "error"),
        "The event stream had an entry that is not an event. The worker deleted it.",
        "Find the client that wrote it.",
    ),
    LogEvent(
        "event_not_forwarded",
        _WARNING,
        ("error",),
        "Another partition did not accept an event in time. The event stays on its stream.",
        _RETRIES,
    ),
    LogEvent(
        "message_not_delivered",
        _WARNING,
        ("run_id", "error"),
        "Another partition did not accept a message. The message stays in the outbox.",
        _RETRIES,
    ),
    LogEvent(
        "trigger_not_readable",
        _ERROR,
        ("function", "error"),
        "Another version registered a trigger that this one cannot read. It matches no event.",
        "Use one version for all workers.",
    ),
    LogEvent(
        "tag_left_out",
        _WARNING,
        ("function", "tag", "error"),
        "An event started a run whose tag cannot have the value in the event. The run has no such tag.",
        "Send a shorter value, or declare another tag.",
    ),
    LogEvent(
        "expression_too_expensive",
        _ERROR,
        ("run_id", "error"),
        "An event of the look-back makes the condition of a wait too expensive to evaluate. It does not end the wait.",
        "Send shorter lists, or compare them in a step.",
    ),
    LogEvent(
        "event_set_aside",
        _ERROR,
        ("event_id", "error"),
        "An event makes an expression too expensive, has ended three workers, or cannot be decrypted.",
        f"`{NAME} events aside` shows the reason. Remove the cause, then use `{NAME} events resend`.",
    ),
    LogEvent(
        "condition_not_readable",
        _ERROR,
        ("run_id", "error"),
        "Another version stored a wait condition that this one cannot read. It matches no event.",
        "Use one version for all workers.",
    ),
)

LOG_EVENTS = {event.name: event for event in _EVENTS}
"""All log events by name."""
