"""How a run is rendered on the terminal.

======================= ==============================================================================
`timeline`              ``stepflow runs show``: the properties of a run, its steps as bars, and its tree
`run_tree_view`         the tree of parent and children
`wait_text`             the text for a sleep or an event wait
======================= ==============================================================================

The input is a view of `stepflow_broker.views`; nothing here reads from the server.
"""
