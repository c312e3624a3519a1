"""The registry of functions: the configuration that programs without the code of a function need.

================  ================================================================================
`functions`       `FunctionConfig`: queue, triggers, retries; commands that read and write it
`crons`           `CronConfig`: the times of a schedule
`schedules`       `ScheduleConfig`: a schedule that was created at run time; the events of scheduled runs
`flow_control`    `FlowConfig`: limits, throttling, debouncing, batches, priorities
`cancellation`    `CancellationConfig`: events that cancel runs, timeouts of start and end
`event_filter`    `EventFilter`: which event ends a wait or cancels a run
`event_values`    values in events, by path or by CEL expression
================  ================================================================================

Workers register their functions when they start. Producers, event routers and the command line read them. The registry
has no states: an entry is replaced as a whole, in every partition, and a version number grows with each change. A
worker that routes an event or starts a child sends the version that it has read. If it is old, the script refuses the
call (`ScriptStatus.STALE_REGISTRY`), and the worker reads the registry again.

A worker that crashes during its registration leaves some partitions with the old entry, until a worker with these
functions starts. A worker that stops leaves its entries, so events are still routed and runs wait in their queues.
Programs ignore fields of a newer version of stepflow, and skip corrupt entries.

The decision about a start (skip, delay, queue) is made by the scripts. This package only evaluates the keys of an event
and passes the result as rules. It imports `stepflow_broker.protocol` and the engine. It must not import redis-py, the
client, or `stepflow` (the public options, which are translated into these configurations).
"""
