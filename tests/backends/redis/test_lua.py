"""The Lua files of the Redis backend: all of them are used, and the linter (``nox -s lua``) finds what is wrong."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from aiotaskq.backends.redis.scripts import FOLDER, script

CHECKOUT = Path(__file__).parents[3]
LUACHECK = pytest.mark.skipif(not shutil.which("luacheck"), reason="luacheck is not installed (Debian: lua-check)")


def test_every_file_is_used_and_every_include_is_replaced() -> None:
    names = [path.stem for path in FOLDER.glob("*.lua")]
    code = "".join(path.read_text() for path in FOLDER.parent.glob("*.py"))
    assert not [name for name in names if f'("{name}", ' not in code]
    sources = [script(name).source for name in names]
    assert not any("-- include" in source for source in sources)
    for path in FOLDER.glob("include/*.lua"):
        own = path.read_text().rpartition("-- include: ")[2].partition("\n")[2] or path.read_text()
        assert any(own in source for source in sources), path
        assert all(source.count(own) <= 1 for source in sources), path


def lint(folder: Path, *scripts: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(CHECKOUT / ".ci" / "lint_lua.py"), *scripts]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@LUACHECK
@pytest.mark.parametrize(
    ("file", "script", "line", "message"),
    [
        ("exchange.lua", "exchange.lua", "return undefined", "accessing undefined variable 'undefined'"),
        ("include/base.lua", "exchange.lua", "local unused = 1", "unused variable 'unused'"),
        ("include/claim_rows.lua", "exchange.lua", "taken = 1", "setting non-standard global variable 'taken'"),
        ("look.lua", "look.lua", "if true then", "expected <eof> near 'if'"),
    ],
)
def test_the_linter_names_file_and_line_of_a_fault(
    tmp_path: Path, file: str, script: str, line: str, message: str
) -> None:
    folder = tmp_path / "aiotaskq/backends/redis/lua"
    shutil.copytree(FOLDER, folder)
    path = folder / file
    number = len(path.read_text().splitlines()) + 1
    if file == "exchange.lua":  # nothing may follow its last statement
        number -= 1
        path.write_text("\n".join(path.read_text().splitlines()[:-1]) + f"\n{line}\n")
    else:
        path.write_text(path.read_text() + f"{line}\n")
    done = lint(tmp_path, script)
    assert done.returncode == 1
    assert f"{Path('aiotaskq/backends/redis/lua') / file}:{number}: " in done.stdout and message in done.stdout


@LUACHECK
def test_a_file_that_no_script_includes_is_a_fault(tmp_path: Path) -> None:
    folder = tmp_path / "aiotaskq/backends/redis/lua"
    shutil.copytree(FOLDER, folder)
    (folder / "include" / "spare.lua").write_text("local spare = 1\n")
    done = lint(tmp_path)
    assert done.returncode == 1 and "spare.lua: no script includes it" in done.stdout
