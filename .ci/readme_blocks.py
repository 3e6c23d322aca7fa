"""Prints the N-th shell block of a Markdown file as a script: ``python3 readme_blocks.py README.md 1``.

Shell blocks are those fenced as bash, sh, shell or console. They are printed as they stand; only a console block loses
its ``$`` prompts and the output between them.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,})\s*(?P<info>[^`]*)$")


def shell_blocks(text: str) -> list[str]:
    """Return the shell blocks of a Markdown text in order, each without its fence and the fence's indent."""
    blocks: list[str] = []
    language = fence = ""
    indent = 0
    lines: list[str] = []
    for line in text.splitlines():
        found = FENCE.match(line)
        if not fence:
            if found:
                fence, indent, lines = found["fence"], len(found["indent"]), []
                language = re.split(r"[\s{,]", found["info"].strip().lower(), maxsplit=1)[0]
        elif found and not found["info"].strip() and found["fence"].startswith(fence):
            if language in {"bash", "sh", "shell"}:
                blocks.append("\n".join(lines) + "\n")
            elif language == "console":
                blocks.append("".join(each[2:] + "\n" for each in lines if each.startswith("$ ")))
            fence = ""
        else:
            lines.append(line[indent:] if not line[:indent].strip() else line)
    return blocks


def main() -> int:
    path, number = Path(sys.argv[1]), int(sys.argv[2])
    blocks = shell_blocks(path.read_text(encoding="utf-8")) if path.exists() else []
    if number > len(blocks):
        sys.stderr.write(f"{path} has {len(blocks)} shell blocks, number {number} is needed\n")
        return 1
    sys.stdout.write(blocks[number - 1])
    return 0


if __name__ == "__main__":
    sys.exit(main())
