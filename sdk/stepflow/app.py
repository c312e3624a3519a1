"""The app: a client that also declares functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from stepflow.client.client import Client
from stepflow.functions.function import Function, FunctionDecorator, local_names, make_function
from stepflow.options.app_id import checked_app_id
from stepflow.options.cancellation import CancelOn, Timeouts, cancellation_config
from stepflow.options.encryption import Encryption, cipher_of
from stepflow.options.flow_control import Batch, Concurrency, Debounce, RateLimit, Singleton, Throttle, flow_config
from stepflow.options.mismatch import OnMismatch, checked_on_mismatch
from stepflow.options.retention import retention_ms
from stepflow.options.tags import tag_configs
from stepflow.options.triggers import Trigger, trigger_configs
from stepflow_engine.around_attempt import AroundAttempt, Attempt
from stepflow_engine.codec import dumps
from stepflow_engine.durations import Duration, duration_ms
from stepflow_engine.errors import ConfigurationError
from stepflow_engine.limits import Limits
from stepflow_engine.retry import DEFAULT_RETRIES
from stepflow_engine.retry_policy import Retry, combined_retries
from stepflow_engine.run_events import CANCELLED, FAILED

__all__ = ["Stepflow"]

M = TypeVar("M", bound=Callable[[Attempt], Any])

_LONGEST_REPLICA_TIMEOUT_MS = 10_000


class Stepflow(Client):
    """An app: a set of functions that share a name and a Redis server, and the client that starts them.

    Creating an app does not connect to Redis; the first call that needs it does.

    Args:
        app_id: the id of the app; also the name of its queue, unless a function sets another.
        redis_url: the URL of the server; ``None``: ``STEPFLOW_REDIS_URL``, else ``redis://127.0.0.1:6379/0``.
        retries: the default number of attempts after the first, of a step and of a function; 0 to 20, or a `Retry`.
        retention: how long an ended run is kept; a duration, or seconds; at least a second.
        limits: the limits of the app's runs.
        encryption: the keys that encrypt payloads; ``None``: those of ``STEPFLOW_ENCRYPTION_KEYS``, if set.
        durability: when ``start``, ``start_many``, ``send`` and their asyncio twins return. ``"primary"``: the server
            has the data. ``"replicated"``: a replica has confirmed it too, so only a failover to a replica that is
            further behind loses it.
        on_mismatch: what becomes of a run whose code requests other steps than its history records, because the code
            was changed. ``"warn"``: it goes on, with a warning in the log, once for each run and version of the code.
            ``"pause"``: it is set aside until a worker has code that fits, or ``stepflow runs accept``. ``"fail"``: it
            fails with `HistoryMismatchError`. With the last two, live workers that have other code get the run first.
        replica_timeout: how long to wait for the replica before `ReplicationError` is raised; at most 10 seconds.

    Raises:
        ConfigurationError: a setting is invalid.

    Example::

        app = Stepflow("shop", redis_url="redis://127.0.0.1:6379/0", retention="30d")
    """

    def __init__(
        self,
        app_id: str,
        *,
        redis_url: str | None = None,
        retries: int | Retry = DEFAULT_RETRIES,
        retention: Duration = "7d",
        limits: Limits | None = None,
        encryption: Encryption | None = None,
        durability: Literal["primary", "replicated"] = "primary",
        replica_timeout: Duration = "1s",
        on_mismatch: OnMismatch = "warn",
    ) -> None:
        try:
            checked_app_id(app_id)
            retained_ms = retention_ms(retention)
            replica_timeout_ms = _replica_timeout_ms(durability, replica_timeout)
            self._on_mismatch: OnMismatch = checked_on_mismatch(on_mismatch)
        except ValueError as error:
            raise ConfigurationError(str(error)) from None
        super().__init__(
            app_id,
            redis_url,
            retention_ms=retained_ms,
            limits=limits or Limits(),
            cipher=cipher_of(encryption),
            replica_timeout_ms=replica_timeout_ms,
        )
        self._retries = retries
        self._around = AroundAttempt()

    def __repr__(self) -> str:
        return f"Stepflow({self.id!r})"

    # -- declaring ---------------------------------------------------------------

    def function(
        self,
        id: str,
        *,
        event: str | None = None,
        if_: str | None = None,
        cron: str | None = None,
        triggers: Sequence[Trigger] = (),
        retries: int | Retry | None = None,
        queue: str | None = None,
        rate_limit: RateLimit | None = None,
        throttle: Throttle | None = None,
        debounce: Debounce | None = None,
        batch: Batch | None = None,
        singleton: Singleton | None = None,
        concurrency: int | Concurrency | Sequence[Concurrency] | None = None,
        idempotency: str | None = None,
        priority: str | None = None,
        cancel_on: CancelOn | Sequence[CancelOn] | None = None,
        timeouts: Timeouts | None = None,
        tags: Mapping[str, str] | None = None,
        pin: Literal["version"] | None = None,
        on_failure: Callable[..., Any] | None = None,
        on_cancel: Callable[..., Any] | None = None,
    ) -> FunctionDecorator:
        """Declare a function: a decorator for an ``async def`` or a plain ``def`` with one parameter, the context.

        A run survives crashes: another worker runs the code again and takes the results of finished steps from Redis.

        Args:
            id: the id of the function in the app. Runs find their code by it, so keep it when the code changes.
            event: the name of the event that starts it; a ``*`` at the end matches any text.
            if_: a CEL expression on ``event`` that must be true, such as ``"event.data.total > 100"``.
            cron: the schedule that starts it, such as ``"TZ=Europe/Rome 0 9 * * *"``; see `CronTrigger`.
            triggers: more names of events, `EventTrigger` and `CronTrigger`; at most ten in all.
            retries: attempts after the first, of each step and of the code between steps, 0 to 20; or a `Retry`, which
                also sets the delays and the errors that are retried. ``None``: those of the app.
            queue: the queue of its jobs; ``None``: the queue named like the app.
            rate_limit: the largest number of starts in a period; more are skipped and stored as skipped.
            throttle: the largest number of starts in a period; more are delayed.
            debounce: starts only the run of the latest of several events in a short time.
            batch: executes several runs as one, with all their events.
            singleton: allows one live run at a time.
            concurrency: the largest number of steps that execute at once: an integer, or at most two `Concurrency`.
            idempotency: a CEL expression on the event; each value starts one run in 24 hours.
            priority: a CEL expression on the event that gives seconds from -600 to 600. The run is queued as if it had
                been created that many seconds earlier.
            cancel_on: events that cancel its live runs; at most five.
            timeouts: deadlines for the start and the end of a run; a run that misses one is cancelled.
            tags: at most five names of tags, and for each a path or a CEL expression on ``event``. `runs` finds runs by
                their tags. If the event has no value for it, a run does not have the tag. A value is text, an integer
                or a boolean, of at most 128 bytes. Another value is refused when a run is started by name. When an
                event starts the run, the tag is left out, with a warning in the log. Tags are stored in clear, also
                with ``encryption=``.
            pin: ``"version"``: a run is executed only by workers with the version of the code that has started it:
                ``STEPFLOW_VERSION``, else the git commit, else the version of the package. Workers of the version that
                was registered last start new runs. ``None``: workers of any version execute a run.
            on_failure: the handler of a second function, ``<id>-failed``. Each failed run (not a cancelled one) starts
                one run of it. Its event's data has ``function``, ``run_id``, ``error`` and the failed run's ``event``.
            on_cancel: the same for each cancelled run: a handler of ``<id>-cancelled``. The error says why: a call, an
                event, a deadline, a newer run (singleton), or the run that waited for it.

        Raises:
            ConfigurationError: a setting is invalid, an annotation cannot be resolved, or the app already has a
                function with this id. A cell of a notebook that is run again replaces its function.

        Example::

            @app.function("import-images", event="shop/product.imported", retries=3, concurrency=10)
            async def import_images(ctx: Context) -> list[str]:
                return await ctx.step.run("copy", copy_images, ctx.event.data["urls"])
        """
        try:
            events, crons = trigger_configs(event=event, if_=if_, cron=cron, triggers=triggers)
            flow = flow_config(
                rate_limit=rate_limit,
                throttle=throttle,
                debounce=debounce,
                singleton=singleton,
                concurrency=concurrency,
                idempotency=idempotency,
                priority=priority,
                batch=batch,
            )
            cancellation = cancellation_config(cancel_on=cancel_on, timeouts=timeouts)
            tagged = tag_configs(tags)
            if pin not in (None, "version"):
                raise ConfigurationError(f'pin must be "version" or None, got {pin!r}')
            if batch and (cancel_on or (cancellation and cancellation.start_ms)):
                raise ConfigurationError(
                    "batch: cannot be combined with cancel_on or Timeouts(start=...): remove one of them"
                )
        except ConfigurationError as error:
            raise ConfigurationError(f"function {id!r}: {error}") from None
        namespace = local_names(1)

        def decorate(handler: Callable[..., Any], /) -> Function[Any, Any]:
            function = make_function(
                handler,
                app_id=self.id,
                id=id,
                events=events,
                crons=crons,
                retries=self._retries_of(id, retries),
                queue=self.id if queue is None else queue,
                flow=flow,
                cancellation=cancellation,
                tags=tagged,
                pinned=pin is not None,
                retention_ms=self.backend.retention_ms,
                limits=self.limits,
                namespace=namespace,
                cipher=self.backend.cipher,
                around=self._around,
                on_mismatch=self._on_mismatch,
            )
            if id in self.functions and not self._is_rerun(id, namespace):
                raise ConfigurationError(
                    f"function {id!r}: app {self.id!r} already has a function with this id: rename one of them"
                )
            self.functions[id] = function
            hooks = ((f"{id}-failed", FAILED, on_failure), (f"{id}-cancelled", CANCELLED, on_cancel))
            for hook_id, reported_by, hook in hooks:
                if hook is not None:
                    if self._is_rerun(hook_id, namespace):
                        del self.functions[hook_id]
                    condition = f"event.data.function == {dumps(function.name).decode()}"
                    self.function(hook_id, event=reported_by, if_=condition, queue=queue)(hook)
            return function

        return decorate

    def _retries_of(self, id: str, retries: int | Retry | None) -> int | Retry:
        """The retries of a function: its own, in the policy of the app if it names only a number."""
        try:
            return self._retries if retries is None else combined_retries(self._retries, retries)
        except ValueError as error:
            raise ConfigurationError(f"function {id!r}: {error}") from None

    def _is_rerun(self, id: str, namespace: Mapping[str, Any]) -> bool:
        """Whether a cell of a notebook, or a line of a console, declares a function that it has declared before."""
        known = self.functions.get(id)
        return _is_cell(namespace) and known is not None and getattr(known.handler, "__module__", "") == "__main__"

    def on_failure(self, handler: Callable[..., Any], /) -> Function[Any, Any]:
        """Declare the function ``on-failure``: each failed run of this app starts one run of it. See `function`.

        A failed run of an ``on_failure`` function starts no further run.

        Example::

            @app.on_failure
            async def alert(ctx: Context) -> None:
                await ctx.step.run("page", page_somebody, ctx.event.data["error"]["message"])
        """
        prefix = dumps(f"{self.id}/").decode()
        if self._is_rerun("on-failure", local_names(1)):
            del self.functions["on-failure"]
        condition = f"event.data.function.startsWith({prefix}) && event.data.event.name != {dumps(FAILED).decode()}"
        return self.function("on-failure", event=FAILED, if_=condition)(handler)

    def around_attempt(self, manager: M, /) -> M:
        """Run code before and after each attempt of the app's steps: a decorator for a generator function.

        The code before ``yield`` runs before the handler, the code after it when the handler has ended. A plain ``def``
        is for plain ``def`` handlers, and runs in the thread of the handler. An ``async def`` is for ``async def``
        handlers, and runs in the task of the handler. Context variables that it sets are visible in the handler. The
        first one that is declared is the outermost.

        An error that it raises is the failure of the attempt, as if the handler had raised it. It may replace the error
        of the handler with another, but cannot drop it. When an attempt in a thread exceeds its timeout, the handler
        runs on, and the code after ``yield`` runs when the handler ends. When a worker dies, it does not run.

        Instead of a generator function it may be one with `contextlib.contextmanager`, or a class of context managers
        whose constructor takes the attempt.

        Raises:
            ConfigurationError: it is neither of these.

        Example::

            @app.around_attempt
            def log_attempt(attempt: Attempt) -> Iterator[None]:
                print(attempt.step_id, attempt.number)
                yield
        """
        in_cell = _is_cell(local_names(1))
        self._around.add(manager, key=getattr(manager, "__qualname__", None) if in_cell else None)
        return manager


def _is_cell(namespace: Mapping[str, Any]) -> bool:
    """Whether these are the names of a cell of a notebook, or of a line of a console."""
    return namespace.get("__name__") == "__main__" and "__file__" not in namespace


def _replica_timeout_ms(durability: str, timeout: Duration) -> int:
    """How long to wait for a replica, in milliseconds; 0: do not wait.

    Raises:
        ValueError: the durability or the timeout is invalid.
    """
    if durability not in ("primary", "replicated"):
        raise ValueError(f'durability must be "primary" or "replicated", got {durability!r}')
    timeout_ms = duration_ms(timeout, name="replica_timeout", least_ms=1, max_ms=_LONGEST_REPLICA_TIMEOUT_MS)
    return timeout_ms if durability == "replicated" else 0
