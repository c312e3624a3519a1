"""Processes in which isolated handlers execute: ``ctx.step.with_options(isolate="process")``.

- ``HandlerProcesses`` has the processes of a worker: none before the first isolated step, then at most so many as
  ``--isolated-processes``. A process executes one handler at a time, and the next one after that.
- ``attempt_in_process`` executes one attempt: it sends the call, follows the process, and ends it when it must.
- ``HandlerProcess`` is one process, seen from the worker. Its program is ``handler_process_main.py``, which passes
  control to ``child.py``.

The call goes to the process as a pickle (``pickled_call.py``), because it is the worker's own. What comes back is
hostile: frames of limited length with JSON text (``frames.py``), of which nothing is unpickled. The worker encodes the
result again, and makes an error from its description (``described_error.py``).

A process is in one of these states: starting, loading a handler, executing it, idle, ending. A crash of it fails the
attempt that it executed, and nothing else. A crash of the worker ends its processes: the kernel kills them (Linux), or
they read the end of their connection.
"""
