"""Replay of the history of a run with the code of its function, without a server.

`history.RunHistory` is what a run has stored. `replayer.Replayer` runs the code over it, up to where it needs something
new, and returns a `replayed.Replayed`. `verdict.judge` says what happens to the run under this code. Nothing here
executes a handler or stores anything, so a crash leaves nothing behind.

Modules: ``history``, ``replayer``, ``replayed``, ``verdict``, ``recording`` (the pass that notes what the code asks
for), ``guard`` (refuses what reaches outside), ``call_site`` (lines of the code).
"""
