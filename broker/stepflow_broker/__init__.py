"""All that touches Redis: keys, Lua scripts, connections, RQ's job format, streams, the embedded server."""
