"""Children of runs: ``invokes`` in one partition, ``remote_invokes`` between two, through the ``outbox``."""
