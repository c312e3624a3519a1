"""The protocol with Redis: keys, scripts, commands and status codes.

- ``keys``: every key and channel, with its type, writer and expiry. No other file spells a key. ``keys_doc`` makes the
  page of the documentation from it.
- ``scripts``: the Lua scripts, assembled from the libraries that they use, and named by their SHA-1.
- ``lua_states``: the tables of states in Lua, generated from the state machine.
- ``command``: one request as a value: its arguments, the key that determines its node, and how to read the reply.
- ``status``: the status codes that scripts return.
- ``streams``: the consumer groups of the streams of events and of finished runs.

Nothing here connects to a server. A command is written once and sent by a blocking or an asyncio broker.

A client that crashes or loses its connection does not know whether Redis has executed its command. So every command can
be sent again: the scripts recognise a repeat by the step key, the fence, the run id or the number of the claim.
"""
