"""Read models: what the CLI, the SDK and the doctor show of runs, workers and queues.

======================= ==============================================================================
`listings`              workers, queues and lists of runs
`run_view`              `RunView`: one run without its event and its output
`run_tree`              `RunTree`: a run with its parent and its children
`run_details`           `RunDetails`: a run with its event, its output, its steps and its tree
`step_view`             `StepView`: one step; `invoke_view` and `wait_view` have what it waits for
`explain`               `Reason`: why a run does not progress
`results`               waiting for the end of a run
`times`                 times in the JSON output
======================= ==============================================================================

The package has no states and stores nothing, so a crash leaves nothing behind. The role read-only can read every view.
Each function takes any `Partition` of the server and reads all partitions, or that of the run. Its cipher opens the
payloads; a payload that it has no key for is shown as ``encrypted``. Each view has one ``to_json``, which is the JSON
output of the commands.

A view is not a snapshot. It is read with several commands, and workers continue in between. Each command sees a
transition completely or not at all. A step that ends during the read is shown once, as ended, because memos are read
after pending steps. A run whose retention ends during the read is left out of a list, and is ``forgotten`` in a tree.
"""
