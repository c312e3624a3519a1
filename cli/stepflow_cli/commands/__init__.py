"""The commands.

======================= ==============================================================================
`dev`                   ``stepflow dev``: a server and workers that restart when the code changes
`dev_workers`           the worker processes of ``stepflow dev``
`worker`                ``stepflow worker`` and the ``stepflow-worker`` program
`send`                  ``stepflow send``, ``start``, ``invoke``
`runs`                  ``stepflow runs list``, ``runs show``
`cancel`                ``stepflow runs cancel``
`errors`                ``stepflow errors``
`explain`               ``stepflow explain``
`pauses`                ``stepflow pause``, ``resume``, ``pauses``
`listings`              ``stepflow functions``, ``workers``, ``queues``
`doctor`                ``stepflow doctor``
======================= ==============================================================================
"""
