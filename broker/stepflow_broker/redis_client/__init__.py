"""The connections to Redis, for blocking and for asyncio code.

- ``url``, ``tls``: what a URL may say, the files it may name, and how it is shown without its secrets.
- ``connection``: from a URL to a client, and the checks of a server before it is used.
- ``sentinel``, ``cluster``: how the address of the primary, or of the node of a partition, is determined.
- ``broker``, ``blocking_client``: blocking calls, for clients, the command line and threads.
- ``async_broker``, ``pipelined_client``, ``pipelined_connection``: asyncio calls. All calls of one turn of the event
  loop go to each server in one write.
- ``operation``: several round trips, written once for both brokers.
- ``partitions``: into how many partitions the keys are divided. All processes must agree on the number.
- ``replication``: calls that return when a replica has confirmed what they wrote.
- ``errors``, ``retry``: the meaning of an error, and whether and when a call is sent again.

A connection is in one of these states: not connected (it connects on first use), connected, or lost. The next call on a
lost connection asks for the address again, so it follows a failover.

When a connection is lost during a call, the call is sent again on a new connection until its time is over. Redis may
execute it twice, and the second execution changes nothing. After that, the caller gets `BackendUnavailableError`.
"""
