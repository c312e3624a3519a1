"""The protocol with Redis: keys, scripts, commands and replies. No connection is made here.

=================  ====================================================================================
`keys`             `KEYS`: every key and channel, with its type, writer and expiry; `Keys` builds them
`keys_doc`         the page docs/reference/redis-keys.md, generated from `KEYS`
`partition`        `Partition`: the keys, the cipher and the clock with which a command is made
`scripts`          the Lua scripts, joined with their libraries and identified by their SHA-1
`lua_states`       the tables of states in the scripts, generated from the state machine
`status`           `ScriptStatus`: the status codes that scripts return
`command`          `Command`: one request as a value, with the reader of its reply
`replies`          readers of raw replies
`streams`          commands of the consumer group on the streams of events and of finished runs
`clock`            the clock of the server, and the clock of this machine
=================  ====================================================================================

A command is a value: creating it sends nothing, so a crash in this package leaves nothing behind. A command that runs
a script is atomic on the server and may be sent twice: the second time changes nothing. The scripts own the states
of runs and steps (`stepflow_engine.state_machine`); this package only gives them their names.

Key texts are written in `keys` only. This package imports the engine, and neither redis-py nor any other package of
the broker.
"""
