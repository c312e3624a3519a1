"""The client of Redis: connects to a server, Sentinel or a cluster, sends commands, and retries them.

======================  ==================================================================================
`broker`                `Broker`: blocking; selects the client of the server that has the keys
`async_broker`          `AsyncBroker`: the same for one event loop
`blocking_client`       `BlockingClient`: commands for one server, with a pool of connections
`pipelined_client`      `PipelinedClient`: the same for an event loop, pipelined on one connection
`pipelined_connection`  the connection of the latter: requests and replies in order
`retry`                 `decide`: what a client does after an error; a pure function
`errors`                the meaning of errors, and the errors that callers receive; `tls` explains TLS
`url`                   parsing and hiding of URLs
`connection`            redis-py clients of a URL; requirements on a server
`locator`               the search for a server without I/O, in `sentinel` and `cluster`
`operation`             several round trips, written once for both brokers
`partitions`            agreement on the number of partitions
`replication`           commands that a replica confirms
======================  ==================================================================================

The two clients follow the same rules (`retry.decide`): a request is resent until its deadline while the server is
unreachable, busy or full; a request at the wrong server is resent on a new connection; any other error fails it.

A connection is not yet connected, connected or lost. It connects when it is first used. The next command after a loss
searches for the address again, so it follows a failover.

Everything here is in memory. If the process or the connection is lost, each unanswered command may have been executed
or not. Both are safe, because the second execution of a script changes nothing. A caller whose deadline has passed gets
`BackendUnavailableError` and may repeat the call with the same ids. Nothing has to be repaired on the server.

This package imports `stepflow_broker.protocol`, `stepflow_broker.access` and the engine. It must not import
transitions or views: it does not know what a command means. Transitions, views and the doctor open connections only
through it.
"""
