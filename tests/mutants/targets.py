"""The files of the package that faults are put into, and the tests that are to notice them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

CONTRACT = "tests/contract"
Tests = tuple[str, ...]


@dataclass(frozen=True)
class Target:
    """A file of the package and the tests that are to notice a fault in it, as arguments of pytest, the quick first."""

    file: str
    tests: Sequence[Tests]
    text: bool = False
    """Whether faults are put into its texts, which are SQL, and not into its Python."""


def _contract(stores: str, *files: str) -> Tests:
    return (*(f"{CONTRACT}/test_{name}.py" for name in files), "-k", stores)


CLAIMS = (
    "claim",
    "push",
    "bounded_push",
    "expired_keys",
    "update",
    "exchange",
    "push_and_claim",
    "operating",
    "reading",
)
SQL = (*CLAIMS, "schedules", "sessions")
GATES = (
    *("gates", "gate_changes", "gate_claims", "gate_delays", "gate_mending", "gate_moments", "rates", "max_waiting"),
    *("budgets", "gates_at_random", "gates_drain_at_random"),
)
GATES_IN_MEMORY = _contract("memory", *GATES)
GATES_IN_SQLITE = _contract("sqlite", *GATES)
PLANS: Tests = ("tests/backends/sql/test_plans.py", "-k", "sqlite")
ENGINES = ("tests/backends/sql/test_engines.py", "tests/backends/sql/migrations/test_servers.py")
LUA = ("include/base", "include/index", "include/flush", "include/answer")
LUA += ("include/claim_rows", "include/insert", "include/lanes", "include/update_rows")
LUA += ("overdue", "commit")
STEPS_LUA = ("side_add", "include/side")
MEMORY_TESTS: Tests = ("tests/backends/memory",)
REDIS_TESTS: Tests = ("tests/backends/redis", "--ignore=tests/backends/redis/faults")
QUEUE: Tests = ("tests/runtime/queue",)
SCHEDULER: Tests = ("tests/runtime/scheduler",)
CRON: Tests = ("tests/core", "-k", "cron")
SCHEDULES: Tests = ("tests/core", "-k", "firing or test_schedule or preview")
STEPS = ("steps", "step_races", "concurrent_steps", "grouped_steps", "sleeps_ended_early")
STEP_RUNS: Tests = ("tests/runtime", "-k", "step or Steps", "--ignore=tests/runtime/worker")
SYNC: Tests = ("tests/sync",)
SYNC_QUICK: Tests = (
    "tests/sync/test_queue.py",
    "tests/sync/test_taskq.py",
    "tests/sync/test_refused_calls.py",
    "tests/test_message_queue.py",
)
WORKER: Tests = ("tests/runtime/worker", "-k", "not isolation and not poison")
WORKERS_DEATHS: Tests = ("tests/runtime/worker", "-k", "isolation or poison")
TARGETS = [
    Target(
        "core/outcome.py",
        [("tests/core", "-k", "outcome or backoff or results"), WORKER, QUEUE],
    ),
    Target(
        "core/task.py",
        [("tests/core", "-k", "test_task or outcome"), QUEUE],
    ),
    Target("core/limits.py", [("tests/core/test_limits.py",), ("tests/app", "-k", "limit")]),
    Target("core/gate.py", [("tests/core/test_gate.py",), GATES_IN_MEMORY]),
    Target("core/parking.py", [("tests/core", "-k", "gate or limits or outcome"), GATES_IN_MEMORY, GATES_IN_SQLITE]),
    Target(
        "core/conversion.py",
        [
            ("tests/core/test_conversion.py",),
            ("tests/core", "-k", "results"),
            STEP_RUNS,
            _contract("memory", "typed_params"),
            WORKER,
        ],
    ),
    Target(
        "backends/flow/gates.py",
        [
            ("tests/backends/test_visit.py",),
            _contract("memory", "max_waiting", "gate_delays"),
            GATES_IN_MEMORY,
            GATES_IN_SQLITE,
        ],
    ),
    Target("backends/memory/gate_rows.py", [GATES_IN_MEMORY]),
    Target("backends/flow/transaction.py", [GATES_IN_MEMORY, GATES_IN_SQLITE]),
    Target("backends/sql/gate_rows.py", [GATES_IN_SQLITE, _contract("postgresql or mysql", *GATES)]),
    *(
        Target(f"backends/redis/{name}", [_contract("redis", *GATES), REDIS_TESTS])
        for name in ("reads.py", "gate_rows.py", "lua/commit.lua", "lua/gates_read.lua")
    ),
    Target("core/schedule.py", [SCHEDULES, SCHEDULER]),
    Target("core/firing.py", [SCHEDULES, SCHEDULER]),
    Target("core/cron.py", [CRON]),
    Target("core/cron_parser.py", [CRON]),
    Target(
        "runtime/scheduler/scheduler.py",
        [("tests/runtime/scheduler/test_due_heap.py",), SCHEDULER],
    ),
    Target("backends/memory/backend.py", [_contract("memory", *CLAIMS), MEMORY_TESTS]),
    Target("backends/memory/ready_queue.py", [_contract("memory", *CLAIMS), MEMORY_TESTS]),
    Target("core/steps.py", [_contract("memory", *STEPS), STEP_RUNS, _contract("sqlite or redis", *STEPS)]),
    Target("runtime/run_steps.py", [_contract("memory or sqlite", *STEPS), STEP_RUNS]),
    Target("backends/steps.py", [_contract("memory", *STEPS), STEP_RUNS, _contract("sqlite", *STEPS)]),
    Target("backends/memory/ended.py", [MEMORY_TESTS]),
    Target("backends/memory/values.py", [_contract("memory", "values"), ("tests/runtime/test_public_values.py",)]),
    Target(
        "backends/sql/claim.py",
        [_contract("sqlite", *CLAIMS), PLANS, _contract("postgresql or mysql", *CLAIMS, "locks")],
    ),
    Target(
        "backends/sql/claim_statements.py",
        [_contract("sqlite", *CLAIMS), PLANS, _contract("postgresql or mysql", *CLAIMS, "locks")],
    ),
    Target("backends/sql/dialects/sqlite.py", [_contract("sqlite", *SQL), PLANS]),
    Target(
        "backends/sql/dialects/postgresql.py",
        [(*ENGINES, "-k", "postgresql and not jit"), _contract("postgresql", *SQL, "locks")],
    ),
    Target("backends/sql/dialects/mysql.py", [(*ENGINES, "-k", "mysql"), _contract("mysql", *SQL, "locks")]),
    Target("backends/sql/tasks.py", [_contract("sqlite", *CLAIMS), _contract("postgresql or mysql", *CLAIMS, "locks")]),
    Target("backends/sql/dialects/sqlite.py", [_contract("sqlite", *SQL)], text=True),
    Target("backends/sql/dialects/postgresql.py", [_contract("postgresql", *SQL, "steps")], text=True),
    *(Target(f"backends/redis/lua/{name}.lua", [_contract("redis", *CLAIMS), REDIS_TESTS]) for name in LUA),
    *(Target(f"backends/redis/lua/{name}.lua", [_contract("redis", *STEPS)]) for name in STEPS_LUA),
    Target("runtime/worker/worker.py", [WORKER, WORKERS_DEATHS]),
    Target("runtime/worker/runner.py", [WORKER, WORKERS_DEATHS]),
    Target(
        "runtime/worker/fetcher.py",
        [
            ("tests/runtime/worker", "-k", "fetcher or test_worker"),
            _contract("sqlite", "workers", "sessions"),
        ],
    ),
    Target("runtime/worker/prefetch.py", [("tests/runtime/worker/test_buffer.py",), WORKER]),
    Target("runtime/worker/leases.py", [("tests/runtime/worker/test_quarantine.py",), WORKERS_DEATHS]),
    Target(
        "runtime/worker/heartbeat.py",
        [
            ("tests/runtime/worker/test_heartbeat.py",),
            WORKER,
            _contract("sqlite", "workers"),
        ],
    ),
    Target(
        "runtime/queue/queue.py",
        [
            QUEUE,
            ("tests/runtime/test_public_values.py",),
            _contract("sqlite", "expired_keys", "sessions"),
            WORKER,
            (f"{CONTRACT}/test_workers.py", "-k", "sqlite and wakes"),
        ],
    ),
    Target("runtime/queue/operations.py", [QUEUE, ("tests/cli/test_cli_operate.py",)]),
    Target("runtime/queue/unacked.py", [QUEUE, SYNC]),
    Target(
        "runtime/queue/claims.py",
        [QUEUE, ("tests/runtime/worker/test_fetcher.py",), _contract("sqlite", "workers", "bounded_push")],
    ),
    Target(
        "runtime/scheduler/scheduler.py",
        [SCHEDULER, _contract("sqlite", "schedulers")],
    ),
    Target("concurrency/loop_thread.py", [("tests/concurrency", "-k", "loop_thread"), SYNC_QUICK, SYNC]),
    Target("sync/bridge.py", [SYNC_QUICK, SYNC]),
    Target("sync/facades.py", [SYNC_QUICK, SYNC]),
]


# ---- faults in Python -----------------------------------------------------------------------------------------------
