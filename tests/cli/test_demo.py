"""The demo: its figures are true, also when it is stopped or killed in the middle."""

from __future__ import annotations

import itertools
import json
import os
import pty
import re
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, MetaData, String, Table

import aiotaskq.sync
from aiotaskq.cli.demo import files
from aiotaskq.cli.demo.files import walk
from aiotaskq.cli.demo.runner import push_blocking
from aiotaskq.core.history import DAY, HOUR
from aiotaskq.models import Base
from tests.support import nursery
from tests.support.machine import within

ROOT = Path(__file__).parent.parent.parent


def make_files(folder: Path, count: int) -> list[str]:
    """Make small files in three folders, and return their paths as the demo names them."""
    paths = []
    for number in range(count):
        path = folder / f"part{number % 3}" / f"file{number:04d}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{number}\n" * (1 + number % 50))
        paths.append(str(path.relative_to(folder)))
    return paths


class Demo:
    """Runs the demo in processes of its own, each with the same cache folder and ledger."""

    def __init__(self, home: Path) -> None:
        self.folder = home / "files"
        self.folder.mkdir()
        self.ledger = home / "ledger"
        self.env = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "XDG_CACHE_HOME": str(home / "cache"),
            "AIOTASKQ_DEMO_LEDGER": str(self.ledger),
        }
        self.env.pop("AIOTASKQ_DATABASE_URL", None)

    def start(self, *args: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "aiotaskq", "demo", str(self.folder), *map(str, args)]
        return nursery.Popen(
            command, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
        )

    def run(self, *args: object) -> tuple[int, str, str]:
        with self.start(*args) as process:
            out, err = process.communicate(timeout=within(40))
            return process.returncode, out, err

    def report(self, *args: object) -> dict[str, Any]:
        code, out, err = self.run("--json", *args)
        assert (code, err) == (0, ""), out
        answer: dict[str, Any] = json.loads(out)
        assert answer["ok"] and all(check["held"] for check in answer["checks"])
        return answer

    def finished(self) -> list[str]:
        """The paths that handlers have finished, each as often as that happened."""
        return self.ledger.read_text().splitlines() if self.ledger.exists() else []

    def wait_for_files(self, count: int, process: subprocess.Popen[str]) -> None:
        """Wait until the running demo has finished so many files."""
        end = time.monotonic() + within(20)
        while len(self.finished()) < count:
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.01)


@pytest.fixture
def demo(tmp_path: Path) -> Demo:
    return Demo(tmp_path)


def test_a_database_of_another_version_of_the_tables_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    now = files.default_url(tmp_path / "a")
    assert now == files.default_url(tmp_path / "a") != files.default_url(tmp_path / "b")
    later = MetaData()
    Table("task_queue", later, Column("another", String))
    monkeypatch.setattr(Base, "metadata", later)
    assert files.default_url(tmp_path / "a") != now


def test_every_claim_holds_and_unfit_files_are_left_out(demo: Demo) -> None:
    paths = make_files(demo.folder, 30)
    (demo.folder / "[red]odd\nname").write_text("x")
    (demo.folder / "empty").touch()
    (demo.folder / "part0" / "loop").symlink_to(demo.folder)
    (demo.folder / "dangling").symlink_to(demo.folder / "nowhere")
    os.mkfifo(demo.folder / "fifo")
    (demo.folder / ".hidden").mkdir()
    (demo.folder / ".hidden" / "secret").write_text("x")
    (demo.folder / ".env").write_text("x")
    with open(os.fsencode(demo.folder) + b"/\xff", "wb") as strange:
        strange.write(b"x")

    answer = demo.report()

    assert answer["files"] == len(paths) + 2
    assert answer["left_out"] == {"symbolic link": 2, "no regular file": 1, "hidden": 2, "name is not UTF-8": 1}
    numbers = answer["numbers"]
    assert numbers["files"] == len(paths) + 2 and numbers["failed"] == 1 and numbers["retried"] == 3
    assert 0 < numbers["wait_median_ms"] <= numbers["wait_max_ms"] < 20_000
    assert numbers["fired"] >= 5 and 0 <= numbers["late_median_ms"] <= numbers["late_max_ms"]
    assert not list(demo.folder.glob("*.db*"))  # nothing of ours is left in the user's folder


def test_lines_in_a_pipe_then_a_fresh_run(demo: Demo) -> None:
    make_files(demo.folder, 5)
    code, out, err = demo.run()
    assert (code, err) == (0, "")
    assert "\x1b" not in out
    assert "5 files" in out.splitlines()[0]
    assert out.splitlines()[1].startswith("database: sqlite:////")
    assert "scheduled report: 5 of 5 files" in out
    assert out.count("✓") == 10 and "✗" not in out
    said = [line for line in out.splitlines() if line]
    assert [line for line, times in Counter(said).items() if times > 1] == [], "each thing is said once"

    # What it says to try next works: the database stays.
    show = re.search(r"aiotaskq (tasks get (\S+) --db \S+)", out)
    assert show is not None
    shown = nursery.run(
        [sys.executable, "-m", "aiotaskq", *show[1].split()], env=demo.env, capture_output=True, text=True, check=True
    )
    assert "on purpose" in shown.stdout

    again = demo.report("--db", re.search(r"--db (\S+)", out)[1])  # type: ignore[index]
    assert again["resumed_after"] == 0 and again["run"] not in show[2]
    assert max(Counter(demo.finished()).values()) == 2  # a finished run is not gone on with


def test_a_run_stopped_by_ctrl_c_continues_and_repeats_nothing(demo: Demo, tmp_path: Path) -> None:
    paths = make_files(demo.folder, 200)
    db = f"sqlite:///{demo.folder}/mine.db"  # within the folder: no file for the demo
    slow = ("--db", db, "--concurrency", "4", "--pause", "0.05")
    with demo.start(*slow) as process:
        demo.wait_for_files(40, process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=within(20))
    assert (process.returncode, err) == (130, "")
    done = demo.finished()
    assert 40 <= len(done) < 200
    assert f"stopped: {len(done)} of 200 files are done" in out and "--db" in out.splitlines()[-1]

    other = tmp_path / "other"
    other.mkdir()
    elsewhere = nursery.run(
        [sys.executable, "-m", "aiotaskq", "demo", str(other), "--db", db], env=demo.env, capture_output=True, text=True
    )
    assert elsewhere.returncode == 1 and "holds a stopped run on" in elsewhere.stderr

    answer = demo.report("--db", db)
    assert answer["resumed_after"] >= len(done) and answer["numbers"]["files"] == 200 - len(done)
    assert sorted(demo.finished()) == sorted(paths)


def test_a_killed_run_continues_with_what_was_not_completed(demo: Demo, tmp_path: Path) -> None:
    paths = make_files(demo.folder, 200)
    db = tmp_path / "demo.db"
    with demo.start("--db", f"sqlite:///{db}", "--concurrency", "4", "--pause", "0.05") as process:
        demo.wait_for_files(40, process)
        process.kill()
        process.communicate(timeout=within(20))
    rows = sqlite3.connect(db)
    query = "SELECT params FROM task_queue WHERE status = 'completed' AND task_type = 'demo.file'"
    completed = {json.loads(row[0])["path"] for row in rows.execute(query)}
    rows.close()
    assert len(completed) >= 20

    answer = demo.report("--db", f"sqlite:///{db}")
    assert answer["numbers"]["lost"] >= 1  # what the killed process held came back when its lease was over
    times = Counter(demo.finished())
    assert set(times) == set(paths)
    assert all(times[path] == 1 for path in completed)
    assert sum(times.values()) <= 200 + 4  # at most what ran when it was killed


def test_on_a_terminal_it_draws_a_bar(demo: Demo) -> None:
    make_files(demo.folder, 50)
    terminal, theirs = pty.openpty()
    env = {**demo.env, "TERM": "xterm-256color", "COLUMNS": "100"}
    command = [sys.executable, "-m", "aiotaskq", "demo", str(demo.folder)]
    with subprocess.Popen(command, env=env, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        out = b""
        while True:
            try:
                out += os.read(terminal, 65536)
            except OSError:  # so Linux says that the other side has ended
                break
    os.close(terminal)
    assert process.returncode == 0
    text = out.decode()
    assert "50/50" in text and "━" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor is given back


def test_databases_of_other_applications_are_refused(demo: Demo, tmp_path: Path) -> None:
    code, out, err = demo.run("--db", "memory://", "--json")
    assert code == 1 and out == "" and err.startswith("error: db:") and err.count("\n") == 1

    url = f"sqlite:///{tmp_path}/app.db"
    nursery.run([sys.executable, "-m", "aiotaskq", "db", "upgrade", "--db", url], env=demo.env, check=True)
    rows = sqlite3.connect(tmp_path / "app.db")
    rows.execute("INSERT INTO task_queue (task_id, task_type, created_at) VALUES ('a', 'mail', 1)")
    rows.commit()
    rows.close()
    code, _, err = demo.run("--db", url)
    assert code == 1 and "database of its own" in err


def test_files_are_found_in_a_fixed_order_up_to_the_limits(tmp_path: Path) -> None:
    paths = make_files(tmp_path, 9)
    files, _ = walk(tmp_path, max_files=100, max_bytes=1_000_000, without=[tmp_path / paths[0]])
    assert [file.path for file in files] == sorted(paths[1:])
    few, left_out = walk(tmp_path, max_files=4, max_bytes=1_000_000)
    assert [file.path for file in few] == sorted(paths)[:4] and left_out == {"more than --max-files": 5}
    small, left_out = walk(tmp_path, max_files=100, max_bytes=20)
    assert sum(file.size for file in small) <= 20 and left_out == {"beyond --max-mb": 9 - len(small)}
    assert walk(tmp_path / "nowhere", max_files=1, max_bytes=1) == ([], {"not readable": 1})
    (tmp_path / paths[0]).write_text("changed")
    changed, _ = walk(tmp_path, max_files=100, max_bytes=1_000_000)
    keys = {file.path: file.key("run") for file in changed}
    assert len(set(keys.values())) == 9
    assert {file.path: file.key("run") for file in files}.items() <= keys.items()


def test_tasks_of_the_script_that_have_ended_are_not_pushed_again(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/demo.db"
    keys = push_blocking(url, "run", 2)
    queue = aiotaskq.sync.DatabaseQueue(url)
    assert queue.pop_task(0) is not None
    queue.task_done()
    assert push_blocking(url, "run", 2) == keys
    found = {task.idempotency_key: str(task.status) for task in queue.find()}
    assert found == dict(zip(keys, ["completed", "pending"], strict=True))
    queue.close()


def test_the_dashboard_opens_on_a_full_shop_and_stays_until_it_is_interrupted(demo: Demo, tmp_path: Path) -> None:
    make_files(demo.folder, 2)
    url = f"sqlite:///{tmp_path / 'demo.db'}"
    process = demo.start("--web", "--port", 0, "--db", url)
    assert process.stdout is not None
    lines = iter(process.stdout)
    home = next(line for line in lines if line.startswith("dashboard: ")).split()[1]
    try:
        with urllib.request.urlopen(home, timeout=within(20)) as page:
            assert b"newsletter" in page.read(), "the shop is there before the files are done"
        said = list(itertools.takewhile(lambda line: not line.startswith("The shop of the dashboard"), lines))
        assert sum("✓" in line for line in said) == 10 and not any("✗" in line for line in said)
    finally:
        process.send_signal(signal.SIGINT)
        _, problems = process.communicate(timeout=within(30))
    assert (process.returncode, problems) == (0, "")

    with aiotaskq.sync.TaskQ(url) as tq:
        failed = tq.find(status="failed", limit=100)
        errors = {(task.type, (task.error_message or "").partition(":")[0]) for task in failed}
        assert {("order.charge", name) for name in ("ConnectionError", "ValueError", "KeyError")} < errors
        assert ("media.parse", "poison") in errors
        assert tq.paused() == ["newsletter"] and tq.limits.get("carrier").state == "paused"
        assert not tq.schedules.get("demo nightly").enabled
        ended = tq.history(since=time.time() - DAY, step=HOUR)
        assert len({period.at for period in ended}) >= 23 and sum(period.n for period in ended) > 5_000
