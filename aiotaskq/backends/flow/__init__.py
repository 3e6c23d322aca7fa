"""What follows from a write of tasks for gates, groups and children: plain functions over a ``Transaction``.

``core`` has the rules; here they are applied, once for every store. A store gives rows, an order, and one commit.
"""
