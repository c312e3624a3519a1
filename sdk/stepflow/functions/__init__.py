"""Functions and what their code uses: `Function`, the contexts, and the step tools.

This package owns the objects that user code touches while a worker executes it. `Function` joins a handler with its
settings and types. `Function.execution` makes one pass over the code: an `Execution` of the engine with a `Context`
(``async def``) or a `SyncContext` (plain ``def``, in a thread). The step tools turn each call into a request of the
engine and turn the memo into a result or an error. Nothing here connects to Redis: the worker performs the requests.

A pass over the code ends in one of three ways: the code returns, the code raises, or the code waits for steps that
have no memo yet. In the last case the worker executes or registers these steps, and a later pass continues.

If the process crashes during a pass, nothing of the pass is kept except the memos that are already in Redis. Another
worker runs the code from the start. Each step with a memo returns its result without being executed; a step without
one is executed, possibly for a second time. Code between steps runs again on each pass.

Modules: ``function``, ``context``, ``step_tools`` (its methods are in ``steps``) and ``sync_step_tools`` (its blocking
twins), ``requests`` (checks of arguments), ``invocable`` (the base class of functions and references), ``reference``.
"""
