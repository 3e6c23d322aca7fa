"""What tasks and schedules are, and every rule about them: frozen values and pure functions.

A task is a frozen record that a worker claims, runs and settles. A schedule is a frozen record that, when due, becomes
a task and its own next self.

Start with ``task`` and ``outcome`` (what a task becomes after a run), then ``schedule`` and ``firing`` (what a schedule
becomes when it is due). ``cron`` finds the times of a cron expression, ``validation`` checks input. Nothing here does
I/O, reads a clock or knows asyncio; ``now`` is an argument.
"""
