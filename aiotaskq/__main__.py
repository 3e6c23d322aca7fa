"""``python -m aiotaskq``: the command line, where no ``aiotaskq`` script is on the path."""

from __future__ import annotations

from aiotaskq.cli import main

if __name__ == "__main__":
    main()
