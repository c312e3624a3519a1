"""The doctor: checks a server and all data on it, and repairs the data.

================ =====================================================================================
`findings`       `Finding`, and the table of all codes with severity, text and repair
`server`         checks of the server or the cluster: settings, replicas, clock, permissions; `node`: one server
`examine`        the examination of all data
`backlog`        late leases, timers and stream entries, and queues that no worker serves
`wait_counts`    the number of waits for each event
`remote_waits`   waits for children in other partitions
================ =====================================================================================

**What is expected.** The truth of a run is its hash, its memos and its steps. Everything else follows from it, and
``lua/lib/expected.lua`` is the one place that says what: the entry in the index of live or ended runs; for each job its
place in a queue or a wait list, its lease or its timer, its concurrency slots, and what RQ's tools show of it; for each
wait its timer, its timeout key and its place in the index of waits; for each event that cancels the run, and for its
deadlines, the same; the singleton; the finished event of an ended run. ``examine_runs`` reports what is missing,
``examine_entries`` what no run demands, and ``repair_jobs``, which workers call, takes the jobs from there.

**What it does not cover.** Relations between two runs (a child and its parent, a run and its batch), the order of the
memos and the expiry of keys are examined in ``examine_runs``. Counts of waits and remote children are under keys that
no script can reach at once, so Python compares them, in several reads whose order excludes false alarms.

**While workers run.** A script reads an entry and its run at once, so a busy server gives no false alarm. No call takes
longer than some milliseconds. A repair is made in the script that found the problem; it can be repeated, and a crash
between two scripts leaves the rest for the next examination. ``tests/support/invariants.py`` has its own model of the
same facts, on purpose: a test compares the two.
"""
