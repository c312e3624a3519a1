"""The broker: everything that touches Redis.

The sub-packages, from the top. Each imports only those below it:

- ``doctor``: examines a server and the data on it, and repairs the data.
- ``views``: read models of runs, steps, workers and queues.
- ``transitions``: the changes of state. Each is one Lua script and one function of the same name.
- ``redis_client``: connections, for blocking and for asyncio code, to a server, by Sentinel, or to a cluster.
- ``registry``: the stored form of functions, their flow control and their event filters.
- ``access``: the roles and the ACL file.
- ``protocol``: keys, scripts, commands and the status codes of scripts.

``lua`` has the scripts, and ``lua/lib`` the libraries that they share. ``embedded_server`` starts a server for
development and tests.

All state of stepflow is in Redis, and only scripts change it. A script is atomic, so a crash of a process leaves the
state before or after a script, never in between. A script may be sent twice: the second call changes nothing.
"""
