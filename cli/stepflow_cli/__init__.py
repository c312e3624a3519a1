"""The command line: ``stepflow`` and ``stepflow-worker``.

======================= ==============================================================================
`main`                  the ``stepflow`` program: the group of all commands
`commands`              one module for each command or group of related commands
`run_view`              how a run is rendered on the terminal: timeline, tree, waits
`server`                which server a command connects to, and the server of ``stepflow dev``
`options`               options that several commands share, and how their values are parsed
`formatting`            times, durations, tables and JSON on the terminal
`exit_codes`            exit codes, and how an error is printed
======================= ==============================================================================

A command parses its options, calls the SDK or a view of `stepflow_broker.views`, and prints the result. It has no
model of runs of its own: with ``-o json`` it prints the ``to_json`` of the view. Results go to standard output, errors
and notes to standard error.
"""
