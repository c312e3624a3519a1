"""Options of functions and apps: triggers, flow control, cancellation and encryption.

Each option is a frozen dataclass that users write in ``@app.function(...)``. This package owns their checks and their
translation: ``to_config()`` checks the values and returns the form that the registry of the broker stores. An invalid
option raises `ConfigurationError` when the function is declared, never when a run executes.

Options have no state of their own. The rules act in Redis:

- ``triggers``: events and schedules that start runs. ``cron_times`` computes the times of a schedule, and
  ``window`` has the hours in which its runs start.
- ``flow_control``: which runs start, when they start, and how many steps execute at once. Scripts count starts, slots
  and wait lists.
- ``cancellation``: events and deadlines that cancel live runs.
- ``encryption``: the keys that encrypt payloads. Keys are never sent to Redis.

A worker writes the options of its functions to the registry when it starts. If it crashes, the registry keeps them, so
clients can start runs while no worker is there, and counts, slots and waiting runs are not lost: a slot is a lease and
becomes free when it expires. A schedule whose times were missed follows its ``catch_up`` option.
"""
