"""Steps: store their memos, and what those that have none wait for.

``step_record`` reads them. ``step_jobs`` are those that call handlers, with ``heartbeats`` and ``step_cache``.
``maps``, ``waits``, ``signals`` and ``asks`` are the other kinds; those of children are in ``invokes``.
"""
