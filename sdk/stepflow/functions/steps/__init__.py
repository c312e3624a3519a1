"""The methods of the step tools, by what a step does.

``calls`` has what all of them share: the execution, and the settings of ``with_options``. `StepTools` inherits from the
others: ``run_steps`` call handlers, ``map_steps`` call one for each item, ``child_steps`` start other functions,
``wait_steps`` wait for times, events, signals and people, and ``event_steps`` send events. ``handler_calls`` are no
steps: a handler calls them while it is executed.

Each method turns its arguments into a request of the engine, and the memo of the step into a result or an error. The
modules have no state beside the execution of one pass, so a crash leaves nothing of them behind.
"""
