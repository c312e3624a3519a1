"""The engine: what a run is, without Redis, clock, randomness or I/O (but for the nonces of `cipher`).

This package owns the rules that every process must apply in the same way:

- ``state_machine``: the states of runs, continuations and steps, and the moves of each transition.
- ``execution``: replay, one pass of a function over its memos. ``run_loop``, ``suspension`` and ``threads`` detect when
  the code waits for steps only.
- ``steps``, ``step_attempt``, ``memo``, ``failure``, ``retry``: a step from its request to its stored end.
- ``ids``: ids of runs, steps and jobs, which derive from names.
- ``codec``, ``cipher``, ``encryption_scopes``: payloads as JSON, and sealed.
- ``errors``, ``limits``, ``durations``, ``expression``, ``product``: errors, and the values that settings may have.

A pass over the code is in one of these states: running, quiet (it waits for steps, see `execution.Waiting`), ended, or
closed. A caller passes in the time, ids and random numbers, so the same memos always give the same pass.

A crash loses the pass, and nothing else is here to lose. The memos are in Redis, and another worker replays the code
over them.
"""
