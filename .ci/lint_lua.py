"""Checks the Lua scripts of the Redis backend with luacheck, each together with what it includes.

A script uses the names that its includes define, so luacheck gets the whole text of one script at a time, and what it
finds is told by file and line as they are in the checkout. An included file may define what one script does not use:
a finding there counts where every script that includes it has it. Arguments name the scripts to check; without any, all
are checked.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

FOLDER = Path("aiotaskq/backends/redis/lua")
INCLUDE = re.compile(r"-- include: (\w+)")
FOUND = re.compile(r"[^:]+:(\d+):(\d+): (.*)")
# What a server gives a script.
OPTIONS = ["--std", "lua51", "--read-globals", "KEYS", "ARGV", "redis", "cjson", "cmsgpack", "--max-line-length", "120"]


def lines_of(path: Path, known: set[str] | None = None) -> list[tuple[Path, int, str]]:
    """Return file, number and text of each line of a script, those of its includes among them, each of these once."""
    known = set() if known is None else known
    lines: list[tuple[Path, int, str]] = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        included = INCLUDE.fullmatch(line)
        if included is None:
            lines.append((path, number, line))
        elif included[1] not in known:
            known.add(included[1])
            lines += lines_of(FOLDER / "include" / f"{included[1]}.lua", known)
    return lines


def findings(path: Path) -> set[tuple[Path, int, str]]:
    """Return what luacheck finds in a script and its includes: file, line and message."""
    lines = lines_of(path)
    command = ["luacheck", "--formatter", "plain", "--codes", *OPTIONS, "-"]
    text = "\n".join(line for _, _, line in lines) + "\n"
    result = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if result.returncode > 2:  # 1 and 2 are warnings and errors
        raise SystemExit(f"luacheck failed on {path}: {result.stdout}{result.stderr}")
    found = set()
    for line in result.stdout.splitlines():
        if match := FOUND.fullmatch(line):
            file, number, _ = lines[min(int(match[1]), len(lines)) - 1]  # what is missing is missed behind the last
            # A message may name another line of the whole text, which is of no use here.
            found.add((file, number, re.sub(r" on line \d+", "", match[3])))
    return found


def main(names: list[str]) -> int:
    """Check the scripts of these names, or every one; return the exit code."""
    if shutil.which("luacheck") is None:
        print("luacheck is not installed (Debian: apt-get install lua-check)", file=sys.stderr)
        return 2
    scripts = sorted(FOLDER / name for name in names) or sorted(FOLDER.glob("*.lua"))
    users: dict[Path, int] = defaultdict(int)
    for script in scripts:
        for file in {file for file, _, _ in lines_of(script)}:
            users[file] += 1
    unused = [] if names else sorted(set((FOLDER / "include").glob("*.lua")) - set(users))
    for file in unused:
        print(f"{file}: no script includes it")
    if unused:
        return 1
    having: dict[tuple[Path, int, str], int] = defaultdict(int)
    for script in scripts:
        for finding in findings(script):
            having[finding] += 1
    counted = sorted(finding for finding, number in having.items() if number == users[finding[0]])
    for file, number, message in counted:
        print(f"{file}:{number}: {message}")
    print(f"{len(scripts)} scripts, {len(users) - len(scripts)} included files, {len(counted)} findings")
    return 1 if counted else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
