"""The test kit: a real server, the real scripts and a real worker in a thread, with a clock that a test turns.

It owns the server that it has started, the database in which a test runs, and the clock. Applications import it as
``stepflow.testing``. It is in this package because it is a worker: see
`docs/decisions/0035-test-on-the-real-engine.md`. A crash of the process of the tests leaves at most the server process
behind, whose folder is in the folder for temporary files.
"""
