"""The consumers of the streams: events that start runs or end waits, and finished runs that wake their parents.

- ``Router`` reads the events of a partition and starts a run of every function whose trigger matches.
- ``EventForwarder`` forwards events to the other partitions.
- ``ConditionalWaitMatcher`` evaluates the conditions of waits that the server cannot compare by index.
- ``CompletionConsumer`` wakes parents, ends batches, and delivers the outbox to other partitions.

An entry on a stream is in one of these states:

- new: no worker has read it.
- pending: a worker has read it and has not finished it.
- deleted: a worker has processed it completely.

A crash leaves pending entries. Another worker takes them over after 10 s and processes them again. That is safe: ids of
runs derive from the event and the function, waits record the events that they received, and a step resolves once.
"""
