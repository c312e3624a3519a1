"""Whole runs: start, control, fork and end them, and read what is stored of them.

``run_starts``, ``run_control``, ``run_notes`` and ``run_ends`` change one run; ``forks`` and ``bulks`` run again;
``batches``, ``bulk_cancel`` and ``requeues`` change several. ``run_record``, ``run_state``, ``run_memos``,
``run_index`` and ``attempts`` read.
"""
