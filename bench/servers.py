"""Our server and the stock one, both in one machine and from one release. Only one runs at a time."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from machines import Machine, installed_image, started

STOCK_FOLDER = "/var/lib/mlflow-stock"
# What a person types who follows MLflow's documentation: everything else is its default, such as
# four workers. Telemetry is off, as it is with ours: a bench reports nothing to anyone.
STOCK_RUN = [
    *("systemd-run", "--quiet", "--unit=mlflow-stock", "--uid=mlflow", "--gid=mlflow"),
    # Killed after as long as Docker Compose waits by default; then the unit's name is free again
    *("--collect", "--property=TimeoutStopSec=10"),
    *(f"--working-directory={STOCK_FOLDER}", f"--setenv=HOME={STOCK_FOLDER}", "--setenv=MLFLOW_DISABLE_TELEMETRY=true"),
]
STOCK_OPTIONS = [
    *("--host", "127.0.0.1", "--port", "5999"),
    *("--artifacts-destination", f"{STOCK_FOLDER}/artifacts", "--backend-store-uri"),
]


@dataclass
class Backend:
    """Where both servers have their databases, and whether they ask who one is.

    Attributes:
        ours, stock: the database of each: a SQLite file, or its name in the machine's PostgreSQL.
        stock_uri: for --backend-store-uri.
        settings: of our role, beside its defaults.
        filled_by: the machine's user who may write into the databases.
        statements: for PostgreSQL's superuser, before stock is started for the first time.
        stock_options: of `mlflow server`, beside those that it always has.
        stock_environment: variables that stock has, as NAME=value.
        login: name:password that both servers know; empty where they ask for none.
    """

    ours: str
    stock: str
    stock_uri: str
    filled_by: str
    settings: str = ""
    statements: tuple[str, ...] = ()
    stock_options: tuple[str, ...] = ()
    stock_environment: tuple[str, ...] = ()
    login: str = ""


PASSWORD = "of-a-throw-away-machine"
BACKENDS = {
    "sqlite": Backend(
        ours="/var/lib/mlflow/mlflow.db",
        stock=f"{STOCK_FOLDER}/mlflow.db",
        stock_uri=f"sqlite:///{STOCK_FOLDER}/mlflow.db",
        filled_by="mlflow",
    ),
    "postgresql": Backend(
        ours="mlflow",
        stock="stock",
        stock_uri="postgresql+psycopg2://stock:stock@127.0.0.1:5432/stock",
        filled_by="postgres",
        settings="mlflow_backend_store=postgresql postgresql_install=true",
        statements=("CREATE ROLE stock LOGIN PASSWORD 'stock'", "CREATE DATABASE stock OWNER stock TEMPLATE template0"),
    ),
}
# As MLflow's documentation turns accounts on; their database is a SQLite file in stock's folder
BACKENDS["accounts"] = replace(
    BACKENDS["sqlite"],
    settings=f"mlflow_auth_enabled=true mlflow_auth_admin_password={PASSWORD}",
    stock_options=("--app-name", "basic-auth"),
    stock_environment=("MLFLOW_FLASK_SERVER_SECRET_KEY=bench", f"MLFLOW_AUTH_ADMIN_PASSWORD={PASSWORD}"),
    login=f"admin:{PASSWORD}",
)
# What PostgreSQL's log has when max_connections was too few for a server
REFUSED = "sorry, too many clients already|remaining connection slots are reserved"


@dataclass
class Server:
    """One of the two servers in a machine.

    Attributes:
        database: a SQLite file, or its name in the machine's PostgreSQL.
        filled_by: the machine's user who may write into it.
        tls: whether load goes to it over TLS.
        login: name:password that it is given; empty for none.
    """

    machine: Machine
    unit: str
    port: int
    start_command: list[str]
    stop_command: list[str]
    database: str
    filled_by: str
    tls: bool = False
    login: str = ""

    @property
    def authorization(self) -> str:
        """What the header of that name says (RFC 7617); empty for none."""
        return f"Basic {base64.b64encode(self.login.encode()).decode()}" if self.login else ""

    def start(self) -> float:
        """Seconds until it is healthy. Where it runs already, this is a restart."""
        return self.machine.inside("inside.py", "start", str(self.port), *self.start_command)

    def stop(self) -> None:
        self.machine.run(*self.stop_command)

    def start_fresh(self) -> float:
        """Seconds to start it after it was stopped."""
        self.stop()
        return self.start()

    def rest(self) -> None:
        """Wait until all its processes have started and have nothing to do."""
        self.machine.inside("inside.py", "rest", self.unit)

    def seed(self, runs: int) -> dict:
        return self.machine.inside("inside.py", "seed", str(self.port), str(runs), self.authorization)

    def fill(self, experiment: str, first: int, last: int) -> None:
        """Write the runs of these numbers into the experiment. The server is stopped."""
        self.machine.inside("fill.py", self.database, experiment, str(first), str(last), user=self.filled_by)

    def is_count(self, experiment: str, runs: int) -> bool:
        """Whether it finds exactly so many runs in the experiment."""
        return self.machine.inside("inside.py", "is-count", str(self.port), experiment, str(runs))

    def artifact(self, do: str, mebibytes: int) -> Any:
        """Send, read or remove the bench's artifact; see artifact.py."""
        return self.machine.inside("artifact.py", do, str(self.port), self.unit, str(mebibytes))

    def version(self) -> str:
        """MLflow's version, by the server's own answer."""
        return self.machine.inside("inside.py", "version", str(self.port))

    def memory(self) -> float:
        """MB of PSS of all its processes. Only its own user may look into them everywhere."""
        return self.machine.inside("inside.py", "memory", self.unit, user="mlflow")

    def load(self, path: str, **load: Any) -> dict:
        """Send load to it; see load.py, `Load` and `Result`."""
        where = {"port": self.port, "tls": self.tls, "authorization": self.authorization}
        return self.machine.inside("load.py", json.dumps({**where, "path": f"/api/2.0/mlflow/{path}", **load}))


def stock_start(store: Backend, release: str = "/opt/mlflow/current") -> list[str]:
    """The command that starts the stock server from a release's folder."""
    environment = [f"--setenv={variable}" for variable in store.stock_environment]
    server = [f"{release}/bin/mlflow", "server", *STOCK_OPTIONS, store.stock_uri, *store.stock_options]
    return [*STOCK_RUN, *environment, *server]


def pair(machine: Machine, store: Backend) -> tuple[Server, Server]:
    """Ours and stock in a machine, whatever state they are in."""
    ours = Server(
        machine,
        unit="mlflow.service",
        port=5001,
        start_command=["systemctl", "restart", "mlflow.service"],
        stop_command=["systemctl", "stop", "mlflow.socket", "mlflow.service"],
        database=store.ours,
        filled_by=store.filled_by,
        login=store.login,
    )
    stock = Server(
        machine,
        unit="mlflow-stock.service",
        port=5999,
        start_command=stock_start(store),
        # systemd-run's unit is gone once it has stopped, and to stop it again is no failure
        stop_command=["sh", "-c", "systemctl stop mlflow-stock.service 2>/dev/null || true"],
        database=store.stock,
        filled_by=store.filled_by,
        login=store.login,
    )
    machine.run("install", "--directory", "--owner=mlflow", "--group=mlflow", STOCK_FOLDER)
    return ours, stock


@contextmanager
def both(purpose: str, backend: str = "sqlite") -> Iterator[tuple[Server, Server]]:
    """Ours and stock in a fresh machine, both stopped, each with an initialised database of its own.

    Args:
        purpose: becomes part of the machine's name.
        backend: of both; a key of BACKENDS. PostgreSQL is one server on the machine, as our role installs it.
    """
    store = BACKENDS[backend]
    with started(installed_image(), purpose) as machine:
        ours, stock = pair(machine, store)
        # This machine's name is not the image's; afterwards the settings fit.
        machine.site(*(["--extra-vars", store.settings] if store.settings else []))
        for statement in store.statements:
            machine.run("psql", "--quiet", f"--command={statement}", user="postgres")
        ours.stop()
        stock.start()
        stock.stop()
        yield ours, stock


def refused_connections(machine: Machine) -> int:
    """How many connections the machine's PostgreSQL has refused because it had enough."""
    # grep ends with 1 where it counts none
    return int(machine.run("sh", "-c", f"cat /var/log/postgresql/*.log | grep --count -E '{REFUSED}' || true"))


def max_connections(machine: Machine) -> int:
    query = "SELECT current_setting('max_connections')"
    return int(machine.run("psql", "--tuples-only", f"--command={query}", user="postgres"))
