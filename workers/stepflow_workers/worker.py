"""StepWorker: an RQ worker with the work loop of stepflow.

Registration, heartbeat, commands over pub/sub, suspension and death are RQ's, so ``rq info``, ``rq suspend`` and RQ's
dashboards show and control it. The execution of jobs and their leases are stepflow's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from types import FrameType
from typing import Any

from rq.worker import BaseWorker
from rq.worker_registration import REDIS_WORKER_KEYS, register

from stepflow import Stepflow
from stepflow_broker.access.rights import missing_rights
from stepflow_broker.access.roles import WORKER
from stepflow_broker.protocol.clock import REAL_CLOCK, Clock
from stepflow_broker.protocol.command import command
from stepflow_broker.protocol.heartbeat import HEARTBEAT_TTL_S
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.protocol.worker_record import CODE_VERSION
from stepflow_broker.redis_client.async_broker import AsyncBroker
from stepflow_broker.redis_client.broker import Broker
from stepflow_broker.redis_client.connection import check_server, connect_all, infos, safe_url
from stepflow_broker.redis_client.errors import CLIENT_ERRORS, ServerRefusesError, server_error
from stepflow_broker.redis_client.partitions import check_partitions, partition_for
from stepflow_broker.redis_client.url import user_of
from stepflow_broker.registry.code import code_names, digest_of_code, register_code
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_broker.registry.functions import check_scopes, read_function_queues, register_functions
from stepflow_broker.transitions.events.consumers import remove_consumers
from stepflow_broker.transitions.jobs.job_claims import queue_lists
from stepflow_engine.around_attempt import Attempt
from stepflow_engine.cipher import NO_ENCRYPTION
from stepflow_engine.errors import BackendUnavailableError, ConfigurationError, PermissionDeniedError, StepflowError
from stepflow_engine.product import WORKER_LOGGER
from stepflow_engine.run_loop import end_tasks
from stepflow_engine.steps import RunRequest
from stepflow_workers.code_fingerprint import code_fingerprint
from stepflow_workers.code_version import VERSION, code_version
from stepflow_workers.consumers.completions import CompletionConsumer
from stepflow_workers.consumers.event_router import Router
from stepflow_workers.encryption_keys import KEY_IDS, check_keys, key_ids
from stepflow_workers.event_loop import run_to_end
from stepflow_workers.execution.job_context import JobContext
from stepflow_workers.execution.job_runner import run_job
from stepflow_workers.execution.poison_isolation import IsolatingRunner
from stepflow_workers.liveness.held_leases import HeldLeases
from stepflow_workers.liveness.lease_renewer import LeaseRenewer
from stepflow_workers.liveness.lease_sidecar import LeaseSidecar
from stepflow_workers.liveness.recycling import RecycleLimits, memory_bytes
from stepflow_workers.partition.dispatcher import Dispatcher
from stepflow_workers.partition.notifications import NotificationListener
from stepflow_workers.partition.partition_worker import PartitionWorker, PartitionWorkers
from stepflow_workers.scheduling.bulks import Bulks
from stepflow_workers.scheduling.cron import CronTicker
from stepflow_workers.scheduling.maintenance import MaintenanceLoop
from stepflow_workers.scheduling.requeues import Requeues
from stepflow_workers.scheduling.schedules import ScheduleTicker
from stepflow_workers.state.log_throttle import LogThrottle
from stepflow_workers.state.registry import Registries
from stepflow_workers.state.settings import WorkerSettings
from stepflow_workers.state.wakeups import Wakeups
from stepflow_workers.state.worker_state import WorkerState

__all__ = ["HARD_END_S", "StepWorker"]

_log = logging.getLogger(WORKER_LOGGER)
_RQ_TTL_S = 60
_RETRY_FOR_S = 60.0
_SAME_SIGNAL_S = 1.0
_LAST_CALL_S = 1.0
"""How long a worker that stops tries to remove what it has left on the server."""
HARD_END_S = 5.0
"""How long after the grace period a worker that stops ends at the latest."""
_PUBSUB_PAUSE_S = 2.0


class StepWorker(BaseWorker):
    """A worker process.

    Args:
        apps: the apps whose functions it executes.
        settings: its settings.
        clock: the time of its runs, timers and schedules.
        replace_handler: see `WorkerState`.
        on_start: called when it is ready to claim jobs.

    Attributes:
        is_recycled: whether it has stopped so that a new process can take its place.

    Raises:
        ConfigurationError: the apps have no functions, or the server is not safe to use.
        BackendUnavailableError: the server does not reply.
    """

    def __init__(
        self,
        apps: Sequence[Stepflow],
        settings: WorkerSettings,
        *,
        clock: Clock = REAL_CLOCK,
        replace_handler: Callable[[Attempt, RunRequest], RunRequest] | None = None,
        on_start: Callable[[], None] | None = None,
    ) -> None:
        self._apps = {app.id: app for app in apps}
        self.functions = {function.name: function for app in apps for function in app.functions.values()}
        self._fingerprint = code_fingerprint(self.functions.values())
        if not self.functions:
            names = ", ".join(app.id for app in apps)
            raise ConfigurationError(
                f"app {names} has no functions: declare them with @app.function before the worker starts"
            )
        self.settings = settings
        self._ciphers = {app.id: app.backend.cipher for app in apps}
        cipher = NO_ENCRYPTION.merged_with(*self._ciphers.values())
        self.partition = partition_for(settings.redis_url, cipher, clock)
        self._code_version = code_version(apps)
        self._code_names = code_names(self.functions, self._fingerprint, release=self._code_version)
        self._check_release()
        client = connect_all(settings.redis_url)
        try:
            for info in infos(client):
                check_server(info, settings.redis_url)
            self.lists = queue_lists(settings.queues or self._own_queues())
            super().__init__(
                self.lists,
                name=_name_in(_database_of(client), settings.name),
                connection=client,
                serializer="json",
                worker_ttl=_RQ_TTL_S,
            )
        except CLIENT_ERRORS as error:
            raise server_error(error, settings.redis_url, "info") from None
        self._on_start = on_start
        self._replace_handler = replace_handler
        self._shown_state = ""
        self._counted = (0, 0)
        self._needs_registration = False
        self._is_registered = False
        self._missing: set[Partition] = set()
        self._worker_state: WorkerState | None = None
        self._partition_workers: PartitionWorkers | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._signalled_at = 0.0
        self._hard_end: threading.Timer | None = None
        self.is_recycled = False
        self._recycle_limits = RecycleLimits(settings)

    def _own_queues(self) -> list[str]:
        """The queues of the functions, then those that they had before: runs keep their queue."""
        broker = Broker(self.settings.redis_url)
        try:
            registered = broker.execute_any([read_function_queues(one.keys) for one in self.partition.all])
        finally:
            broker.close()
        former = [queue for name, queue in registered if name in self.functions]
        return list(dict.fromkeys([*(function.config.queue for function in self.functions.values()), *former]))

    def work(self, *_args: Any, **_options: Any) -> bool:
        """Work until a signal, or, in burst mode, until nothing is ready; true if it finished any job."""
        self._register_functions()
        self._install_signal_handlers()
        try:
            self._register()
        except ValueError as error:  # RQ: the name is in use
            raise ConfigurationError(f"{error}: choose another --name, or wait until that worker has stopped") from None
        except (*CLIENT_ERRORS, BackendUnavailableError) as error:
            explained = (
                error if isinstance(error, StepflowError) else server_error(error, self.settings.redis_url, "multi")
            )
            if len(self.partition.all) == 1 or not isinstance(explained, BackendUnavailableError):
                raise explained from None
            _log.warning("worker_not_registered", extra={"worker": self.name, "error": str(explained)})
        _log.info(
            "worker_started",
            extra={
                "worker": self.name,
                "queues": self.lists,
                "redis": safe_url(self.settings.redis_url),
                "version": self._code_version,
            },
        )
        if self._on_start is not None:
            self._on_start()
        try:
            run_to_end(self._serve())
        finally:
            self._deregister()
            if self._hard_end is not None:
                self._hard_end.cancel()
        return self.successful_job_count > 0

    def _register(self) -> None:
        """Register the worker in RQ, and start to listen to RQ's commands."""
        self._remove_stale_registration()
        self._check_keys()
        self.bootstrap(logging_level="WARNING")
        self.connection.hset(self.key, items=self._own_fields)
        self._is_registered = True

    @property
    def _own_fields(self) -> list[str]:
        """The fields of its RQ record that RQ does not know, each followed by its value."""
        return [KEY_IDS, key_ids(self._ciphers), CODE_VERSION, self._code_version]

    @property
    def _configs(self) -> list[FunctionConfig]:
        configs = [function.config for function in self.functions.values()]
        return [replace(one, release=self._code_version) if one.pinned else one for one in configs]

    def _check_release(self) -> None:
        pinned = [name for name, function in self.functions.items() if function.config.pinned]
        if pinned and not self._code_version:
            raise ConfigurationError(
                f'function {pinned[0]} has pin="version", but the version of the code is unknown: set {VERSION}, or '
                "start the worker in a git repository or with an installed package"
            )
        if pinned and set(self._code_version) & {'"', "\\"}:  # scripts find it in the JSON text of the config
            raise ConfigurationError(
                f'{VERSION} must not contain \'"\' or a backslash, because function {pinned[0]} has pin="version", got '
                f"{self._code_version!r}"
            )

    def _register_functions(self, *, only_missing: bool = False) -> None:
        """Register the functions in all partitions. Those whose nodes a cluster has lost follow later.

        The code comes first: while it is registered, nobody can forget the functions.
        """
        configs, partitions = self._configs, self.partition.all
        broker = Broker(self.settings.redis_url)
        try:
            answers = broker.execute_each([missing_rights(one.keys, WORKER) for one in partitions])
            lost = {
                one: answer for one, answer in zip(partitions, answers, strict=True) if not isinstance(answer, list)
            }
            for answer in answers:
                self._check_rights(answer if isinstance(answer, list) else [])
            check_partitions(broker, self.partition.keys)
            check_scopes(self.partition.keys, configs)
            there = [one for one in partitions if one not in lost]
            broker.execute_all([register_code(one, self._code_names) for one in there])
            broker.execute_all([register_functions(one.keys, configs, only_missing=only_missing) for one in there])
        finally:
            broker.close()
        self._missing |= set(lost)
        if lost:
            names = " ".join(one.tag.strip("{}:") for one in lost)
            _log.warning("partitions_unavailable", extra={"partitions": names, "error": str(next(iter(lost.values())))})

    async def _register_in(self, broker: AsyncBroker, partition: Partition) -> None:
        """Register the functions in a partition that was not there when the worker started."""
        if partition not in self._missing:
            return
        lacking = await broker.execute(missing_rights(partition.keys, WORKER))
        try:
            self._check_rights(lacking)
        except PermissionDeniedError as error:  # the other partitions work: it is an outage of this one
            raise ServerRefusesError(str(error), right=" ".join(lacking)) from None
        await broker.execute(register_code(partition, self._code_names))
        await broker.execute(register_functions(partition.keys, self._configs))
        self._missing.discard(partition)
        _log.info("partition_available", extra={"partition": partition.tag.strip("{}:")})

    def _check_keys(self) -> None:
        broker = Broker(self.settings.redis_url)
        try:
            check_keys(broker, self.partition, self._ciphers)
        finally:
            broker.close()

    def _check_rights(self, lacking: Sequence[str]) -> None:
        """Refuse a user without all rights of a worker: a script would be refused later, when it needs them."""
        if not lacking:
            return
        url, more = self.settings.redis_url, f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
        raise PermissionDeniedError(
            f"user {user_of(url)} of the server at {safe_url(url)} lacks rights of role {WORKER.name}: "
            f"{' '.join(lacking[:5])}{more}; extend the user's ACL",
            user=user_of(url),
            action="check_rights",
            roles=[WORKER.name],
        )

    # -- inside the loop ---------------------------------------------------------

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        broker = AsyncBroker(
            self.settings.redis_url, retry_for_s=_RETRY_FOR_S, on_refusal=partial(_report_refusal, LogThrottle())
        )
        wakeups = Wakeups(self.partition)
        code = digest_of_code(self._code_names)
        registries = Registries(broker, self.partition)
        lease_ms = self.settings.lease_ms
        lease_sidecar = LeaseSidecar(
            self.settings.redis_url,
            worker=self.name,
            rq_worker_key=self.key,
            lease_ms=lease_ms,
            is_wanted=self.settings.has_lease_sidecar,
        )
        leases = HeldLeases(lease_sidecar.table)
        state = WorkerState(
            broker,
            self.partition,
            self.name,
            self.settings,
            code,
            wakeups,
            fingerprint=self._fingerprint,
            replace_handler=self._replace_handler,
            version=self._code_version,
        )
        completions = CompletionConsumer(broker, self.partition, self.name, state.cache)
        lease_renewer = LeaseRenewer(
            self.settings.redis_url,
            self.partition,
            leases,
            executing=state.executing,
            lease_sidecar=lease_sidecar,
            lease_ms=lease_ms,
            heartbeat=self._send_heartbeat,
            lost=partial(_drop_lost, state, leases),
            call_in_loop=partial(_from_thread, loop),
        )
        bulks = Bulks(state, self._apps)
        runner = IsolatingRunner(state, partial(run_job, JobContext(state, completions, self.functions, registries)))

        def build(partition: Partition) -> PartitionWorker:
            router = Router(broker, partition, self.name, registries.of(partition))
            cron_ticker = CronTicker(broker, partition, self.functions.values())
            schedule_ticker = ScheduleTicker(broker, partition, self.functions.values())
            requeues = Requeues(broker, partition, self._apps)
            dispatcher = Dispatcher(
                state,
                partition,
                lists=self.lists,
                runner=runner,
                leases=leases,
                router=router,
                maintenance=MaintenanceLoop(
                    state,
                    partition,
                    completions=completions,
                    cron_ticker=cron_ticker,
                    schedule_ticker=schedule_ticker,
                    requeues=requeues,
                    bulks=bulks if partition is self.partition.all[0] else None,
                    code=self._code_names,
                    functions=self._configs,
                ),
                set_state=partial(self._show_state, broker),
            )
            wakeups.add(partition, dispatcher)
            listener = NotificationListener(broker, partition.keys, self.name, self.lists, dispatcher)
            return PartitionWorker(dispatcher, router, listener, partial(self._register_in, broker, partition))

        partition_workers = PartitionWorkers(state, completions, {one: build(one) for one in self.partition.all})
        self._worker_state, self._partition_workers = state, partition_workers
        self._loop = loop
        if self._signalled_at:
            partition_workers.stop()
        lease_renewer.start()
        listeners = partition_workers.listen()
        if self.settings.recycles:
            listeners.append(loop.create_task(self._recycle(state)))
        try:
            await partition_workers.run()
            await asyncio.gather(bulks.leave(), partition_workers.finish(self.settings.grace_s))
        finally:
            await end_tasks(listeners)
            await self._leave_streams(broker)
            lease_renewer.stop()
            self._send_heartbeat()
            await broker.close()
            state.threads.close()
            state.processes.close()

    async def _recycle(self, state: WorkerState) -> None:
        """Stop when the limits of this process are reached."""
        reason = await self._recycle_limits.reached(lambda: state.finished_jobs + state.failed_jobs)
        _log.info(
            "worker_recycled",
            extra={
                "worker": self.name,
                "reason": reason,
                "jobs": state.finished_jobs + state.failed_jobs,
                "memory_mib": memory_bytes() // 1024**2,
            },
        )
        self.is_recycled = True
        self._end_in_time()
        if self._partition_workers is not None:
            self._partition_workers.stop()

    def _end_in_time(self) -> None:
        """End the process soon after the grace period, whatever its event loop and its threads do."""
        if self._hard_end is None:
            self._hard_end = threading.Timer(self.settings.grace_s + HARD_END_S, self._end_at_once)
            self._hard_end.daemon = True
            self._hard_end.start()

    async def _leave_streams(self, broker: AsyncBroker) -> None:
        """Delete the consumers of this worker. If the server is not available, another worker deletes them later."""
        with contextlib.suppress(StepflowError, TimeoutError):
            async with asyncio.timeout(_LAST_CALL_S):
                await broker.execute_all([remove_consumers(one, worker=self.name) for one in self.partition.all])

    def _set_connection(self, connection: Any) -> Any:
        """Replaces RQ's method, which sets timeouts. Our client has its own; a cluster client has them elsewhere."""
        return connection

    def _remove_stale_registration(self) -> None:
        """Delete the registration of a killed worker with this name on this host, so that this one can use the name."""
        host, pid = self.connection.hmget(self.key, "hostname", "pid")
        if host is None or pid is None:
            self.connection.delete(self.key)  # not of a worker: only a part was written, because a node was away
            return
        if host != str(self.hostname).encode():
            return
        if int(pid) == self.pid or not is_running(int(pid)):
            self.connection.delete(self.key)

    def handle_payload(self, message: Any) -> None:
        """Handle RQ's commands over pub/sub. A malformed one is ignored: it would end RQ's thread."""
        try:
            super().handle_payload(message)  # type: ignore[no-untyped-call]
        except Exception as error:  # noqa: BLE001  any client can publish anything
            _log.warning("message_not_understood", extra={"channel": "rq", "error": type(error).__name__})

    def _install_signal_handlers(self) -> None:
        """Replaces RQ's method."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._on_signal)
            _restore_signals_in_children()

    def stop(self) -> None:
        """Claim no more jobs, finish the running ones, and return from `work`. Callable from any thread."""
        self._signalled_at = time.monotonic()
        if self._loop is not None and self._partition_workers is not None:
            _from_thread(self._loop, self._partition_workers.stop)

    def clock_set(self) -> None:
        """Do what is due now: a test has set the clock. Callable from any thread; returns when the loop knows it."""
        noted, workers = threading.Event(), self._partition_workers

        def note() -> None:
            if workers is not None:
                workers.clock_set()
            noted.set()

        if self._loop is not None:
            _from_thread(self._loop, note)
            noted.wait(HARD_END_S)

    @property
    def has_followed(self) -> bool:
        """Whether it has started, and all its periodic tasks have run since `clock_set`. Callable from any thread."""
        return self._partition_workers is not None and self._partition_workers.has_followed

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        """First signal: finish the running jobs. Second signal: stop at once; the leases expire.

        Two signals within a second count as one: Ctrl+C reaches a process both directly and through its pool.
        """
        now = time.monotonic()
        if now - self._signalled_at < _SAME_SIGNAL_S:
            return
        first, self._signalled_at = not self._signalled_at, now
        partition_workers, loop = self._partition_workers, self._loop
        if first:
            _log.info(
                "worker_stopping",
                extra={"worker": self.name, "jobs": partition_workers.job_count if partition_workers else 0},
            )
            self._end_in_time()
        if partition_workers is None or loop is None:
            return  # still starting: `_serve` checks `_signalled_at`
        if first:
            loop.call_soon_threadsafe(partition_workers.stop)
            return
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)  # a third one would start this again, in the middle of it
        self._end_at_once()

    def _end_at_once(self) -> None:
        """End the process, whatever its event loop and its threads do. The leases expire."""
        _log.warning("worker_stopped_at_once", extra={"worker": self.name})
        # In a thread, because the interrupted code may hold a lock of the connection.
        last_call = threading.Thread(target=self._deregister_only, daemon=True)
        last_call.start()
        last_call.join(_LAST_CALL_S)
        os._exit(1)

    # -- registration in RQ ------------------------------------------------------

    def _show_state(self, broker: AsyncBroker, state: str) -> None:
        if state != self._shown_state:
            self._shown_state = self._state = state
            shown = broker.submit(command(int, "HSET", self.key, "state", state))
            shown.add_done_callback(lambda done: done.exception())

    def _send_heartbeat(self) -> None:
        """Send RQ's heartbeat and job counts. Runs in the thread of the lease renewer."""
        worker_state = self._worker_state
        if worker_state is None:
            return
        counts = (worker_state.finished_jobs, worker_state.failed_jobs)
        finished, failed = counts[0] - self._counted[0], counts[1] - self._counted[1]
        try:
            if not self._is_registered:
                self._register()
            with self.connection.pipeline(transaction=False) as pipeline:
                self.heartbeat(HEARTBEAT_TTL_S, pipeline=pipeline)
                if finished:
                    pipeline.hincrby(self.key, "successful_job_count", finished)
                if failed:
                    pipeline.hincrby(self.key, "failed_job_count", failed)
                pipeline.smembers(REDIS_WORKER_KEYS)
                replies = pipeline.execute()
            self._counted = counts
            self.successful_job_count = counts[0]
            self._needs_registration |= (
                bool(replies[0]) or self.key.encode() not in replies[-1]
            )  # the heartbeat is a new field
            if self._needs_registration:
                self._register_again()
        except (*CLIENT_ERRORS, StepflowError, ValueError) as error:  # ValueError: RQ: the name is in use
            _log.warning("heartbeat_failed", extra={"error": str(error)})

    def _register_again(self) -> None:
        """Register again: the server has lost the registration of this worker, by a failover or an outage.

        It may have lost the functions too, which were registered earlier. Their events would start nothing. Functions
        that it has keep their configs, which may be those of newer code.
        """
        _log.warning("worker_reregistered", extra={"worker": self.name})
        self._register_functions(only_missing=True)
        with self.connection.pipeline() as pipeline:
            pipeline.hset(self.key, mapping={**self.serialize(), "state": self._shown_state})
            pipeline.hset(self.key, items=self._own_fields)
            register(self, pipeline)
            pipeline.execute()
        self._needs_registration = False

    def _pubsub_exception_handler(self, exc: BaseException, pubsub: Any, pubsub_thread: Any) -> None:  # noqa: ARG002
        """Replaces RQ's method, whose listener for commands ends at most errors."""
        if not isinstance(exc, CLIENT_ERRORS):
            raise exc
        _log.warning("commands_interrupted", extra={"error": str(exc)})
        time.sleep(_PUBSUB_PAUSE_S)

    def unsubscribe(self) -> None:
        """Replaces RQ's method, which may wait a second for its thread: it tells the thread to stop too late."""
        if self.pubsub_thread is not None and self.pubsub is not None:
            self.pubsub_thread.stop()  # before the reply to UNSUBSCRIBE wakes it
            self.pubsub.unsubscribe()
            self.pubsub_thread.join(timeout=1)
            self.pubsub.close()

    def _deregister_only(self) -> None:
        try:
            self.register_death()  # type: ignore[no-untyped-call]
        except CLIENT_ERRORS as error:
            _log.warning("worker_deregister_failed", extra={"error": str(error)})

    def _deregister(self) -> None:
        try:
            self.teardown()  # type: ignore[no-untyped-call]
        except CLIENT_ERRORS as error:
            _log.warning("worker_deregister_failed", extra={"error": str(error)})


def is_running(pid: int) -> bool:
    """Whether a process with this id runs on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _database_of(client: Any) -> int:
    return int(client.get_connection_kwargs().get("db") or 0)


def _name_in(database: int, name: str) -> str:
    """The name of a worker in RQ. It is unique on the server, because the channels of its databases are the same.

    RQ's commands, such as a shutdown, are messages to a name, and say nothing of the database.
    """
    if not name:
        return f"{socket.gethostname()}.{os.getpid()}.{uuid.uuid4().hex[:6]}"
    return f"{name}.db{database}" if database else name


@cache
def _restore_signals_in_children() -> None:
    """Give processes that handlers fork the default signal handlers: the signals of a child are not for the worker."""
    os.register_at_fork(after_in_child=_restore_signals)


def _restore_signals() -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _report_refusal(throttle: LogThrottle, error: ServerRefusesError) -> None:
    """Log a refusal of the server. Every request meets it, and is sent again and again."""
    if throttle.allows(error.right or str(error)):
        _log.warning("server_refuses", extra={"right": error.right, "error": str(error)})


def _drop_lost(state: WorkerState, leases: HeldLeases, lost: dict[str, int]) -> None:
    """Drop jobs whose leases another worker has now, and the runs of lost continuations.

    This worker may have claimed a job again since: that of a run that was cancelled, and undoes its steps now.
    """
    for job, fence in lost.items():
        lease = leases.get(job)
        if lease is None or lease.fence != fence:
            continue
        del leases[job]
        if not lease.key:
            state.evict(lease.run_id)
        state.interrupt(lease.run_id, job=job, reason="the run has ended, or another worker has the step")


def _from_thread(loop: asyncio.AbstractEventLoop, callback: Callable[..., None], *args: Any) -> None:
    if not loop.is_closed() and threading.main_thread().is_alive():
        loop.call_soon_threadsafe(callback, *args)
