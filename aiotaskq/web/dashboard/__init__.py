"""The dashboard: pages and actions for people, independent of a framework; ``Dashboard.respond`` is its entry.

A request goes ``site`` (access, session, language) → ``pages/`` (one file per kind of thing: functions that return
data) → a template of ``templates/``. A change goes ``site`` → an action of ``pages/`` and back to a page. ``live``
renders, and sends parts of open pages again when they have changed. ``past`` reads the history, ``charts`` draws it,
``attention`` finds what keeps tasks from running, ``words`` formats and translates.

All paths are flat (``task?id=…``), and all links relative: the pages work under any prefix, and behind a proxy that
rewrites the path.
"""

from __future__ import annotations
