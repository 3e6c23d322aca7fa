"""``python -m benchmarks``: measures, shows tables, leaves a report; publishes one in the README and the manual."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from rich.console import Console

from benchmarks import machine, page, published, report, terminal
from benchmarks.case import Case, Scenario, load
from benchmarks.runner import Measured, Runner, Settings, beside, chosen, is_checkout
from benchmarks.stores import Stores

FULL = Settings()
QUICK = Settings(seconds=0.1, rounds=1, scale=0.02)


def main(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    console = Console()
    scenarios = load()
    if options.list:
        terminal.list_scenarios(console, scenarios)
        return 0
    if options.publish is not None:
        return _publish(console, Path(options.publish or options.out / "report.json"))
    picked = chosen(scenarios, options.only)
    if options.against is not None:
        if not is_checkout(options.against):
            print(f"--against: {options.against} is no checkout of aiotaskq", file=sys.stderr)
            return 2
        picked = beside(picked, options.against.resolve())
    if not picked:
        print(f"nothing is named {', '.join(options.only)}; --list shows what there is", file=sys.stderr)
        return 2
    try:
        old = None if options.compare is None else report.read(options.compare)
    except (OSError, ValueError) as error:
        print(f"--compare: {error}", file=sys.stderr)
        return 2
    made = _measure(console, picked, _settings(options), options)
    _leave(console, made, options.out, options.json)
    terminal.show(console, made)
    if old is not None:
        terminal.show_changes(console, report.changes(old, made), str(options.compare))
    if options.against is not None:
        terminal.show_ratios(console, report.ratios(made), str(options.against))
    console.print(f"\nreport: {options.out / 'report.html'}", highlight=False)
    return 1 if made["failed"] or made["stopped_early"] else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description="Measure aiotaskq beside its peers and the limit, on this machine."
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="PATTERN",
        help="only what this names: redis, sqlite/push*, '*/aiotaskq', huey; may be repeated",
    )
    parser.add_argument("--scale", type=float, metavar="F", help="times and sizes, as a part of the full ones")
    parser.add_argument("--quick", action="store_true", help="a short look; its figures are rough")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"rounds, of which the median counts; {FULL.rounds}")
    parser.add_argument("--compare", type=Path, metavar="OLD.json", help="show what changed since that run")
    parser.add_argument(
        "--against",
        type=Path,
        metavar="CHECKOUT",
        help="measure aiotaskq alone, in turn with that of another checkout (with its .venv, if it has one)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the data there, too")
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", default=Path("bench-results"), help="where the report goes; %(default)s"
    )
    parser.add_argument(
        "--publish",
        nargs="?",
        const="",
        metavar="REPORT.json",
        help="measure nothing: write the figures of that report, or of the one in --out, into the README and "
        "the manual of this checkout, and keep the report and its plots in benchmarks/results; refused for a part of "
        f"the cases, a scale below 1, and a load above {published.QUIET:g} at the start",
    )
    parser.add_argument("--jit", action="store_true", help="PostgreSQL of the system, 17 or earlier, with JIT")
    parser.add_argument("--list", action="store_true", help="list what can be measured, and stop")
    return parser


def _settings(options: argparse.Namespace) -> Settings:
    base = QUICK if options.quick else FULL
    scale = base.scale if options.scale is None else options.scale
    if not 0 < scale <= 100:
        raise SystemExit("--scale: above 0, and at most 100")
    rounds = base.rounds if options.rounds is None else options.rounds
    if rounds < 1:
        raise SystemExit("--rounds: at least 1")
    seconds = base.seconds if options.scale is None else max(0.05, FULL.seconds * scale)
    return Settings(seconds=seconds, rounds=rounds, scale=scale)


def _said(options: argparse.Namespace) -> list[str]:
    """Return the options that determine what is measured, without the one for the report's folder."""
    words = ["--quick"] if options.quick else []
    for name in ("rounds", "scale"):
        if (value := getattr(options, name)) is not None:
            words += [f"--{name}", f"{value:g}"]
    words += [word for each in options.only for word in ("--only", each)]
    words += ["--against", options.against.name] if options.against is not None else []
    return words + (["--jit"] if options.jit else [])


def _measure(
    console: Console,
    picked: list[tuple[Scenario, list[Case]]],
    settings: Settings,
    options: argparse.Namespace,
) -> report.Report:
    """Run all that was picked; what there is by then, if it is interrupted."""
    started = time.monotonic()
    # The processes that run the cases have another working directory.
    stores = Stores(options.out.resolve(), jit=options.jit)
    try:
        where = machine.describe(stores, _said(options))
        some = [(scenario, [case for case in cases if not case.absent]) for scenario, cases in picked]
        present = [(scenario, cases) for scenario, cases in some if cases]  # a scenario may need what is not installed
        absent = {f"{case.who}: {case.absent} is not installed" for _, cases in picked for case in cases if case.absent}
        measured, stopped = _run(console, stores, present, settings, options.out / "logs")
        absent |= {f"{kind}: {why}" for kind, why in stores.unavailable.items()}
        where["servers"] = machine.servers(stores)
        where["seconds"] = round(time.monotonic() - started, 1)
        return report.make(where, settings, measured, absent, stopped)
    finally:
        stores.close()


def _run(
    console: Console, stores: Stores, picked: list[tuple[Scenario, list[Case]]], settings: Settings, logs: Path
) -> tuple[list[Measured], bool]:
    total = sum(len(cases) for _, cases in picked) * (settings.rounds + 1)
    stopped = False
    with terminal.progress(console) as bar:
        doing = bar.add_task("starting", total=total)
        title = ""

        def tell(what: str) -> None:
            bar.update(doing, description=f"{title}: {what}"[:70].ljust(70))

        with Runner(stores, settings, logs, tell, lambda: bar.advance(doing)) as runner:
            try:
                for scenario, cases in picked:
                    title = f"{scenario.family}: {scenario.title}"
                    if stores.start(scenario.place) is None and scenario.place in stores.unavailable:
                        bar.advance(doing, len(cases) * (settings.rounds + 1))
                    else:
                        runner.measure(scenario, cases)
            except KeyboardInterrupt:
                stopped = True
    return runner.measured, stopped


def _leave(console: Console, made: report.Report, out: Path, extra: Path | None) -> None:
    """Write the JSON, the plots and the page."""
    text = report.dumps(made)
    for path in (out / "report.json", *([extra] if extra is not None else [])):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    plots: dict[str, str] = {}
    titles: dict[str, str] = {}
    try:
        from benchmarks import plots as drawing

        plots = drawing.draw(made, out / "plots")
        titles = {name: drawing.title_of(name) for name in plots}
    except ImportError as error:
        console.print(f"no plots: {error}", style="dim")
    (out / "report.html").write_text(page.render(made, plots, titles), encoding="utf-8")


def _publish(console: Console, path: Path) -> int:
    try:
        from benchmarks.plots import bars

        written = published.publish(report.read(path), bars, published.ROOT)
    except ImportError as error:
        print(f"--publish: the plots need matplotlib ({error}); pip install it, as nox -s bench does", file=sys.stderr)
        return 2
    except (OSError, ValueError) as error:
        print(f"--publish {path}: nothing was written: {error}", file=sys.stderr)
        return 2
    for each in written:
        console.print(f"written: {each.relative_to(published.ROOT)}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
