"""Our server and the stock one, both in one machine and from one release. Only one runs at a time."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from machines import Machine, installed_image, started

STOCK_FOLDER = "/var/lib/mlflow-stock"
# What a person types who follows MLflow's documentation: everything else is its default, such as
# four workers. Telemetry is off, as it is with ours: a bench reports nothing to anyone.
STOCK_COMMAND = [
    *("systemd-run", "--quiet", "--unit=mlflow-stock", "--uid=mlflow", "--gid=mlflow"),
    *(f"--working-directory={STOCK_FOLDER}", f"--setenv=HOME={STOCK_FOLDER}", "--setenv=MLFLOW_DISABLE_TELEMETRY=true"),
    *("/opt/mlflow/current/bin/mlflow", "server", "--host", "127.0.0.1", "--port", "5999"),
    *("--backend-store-uri", f"sqlite:///{STOCK_FOLDER}/mlflow.db"),
    *("--artifacts-destination", f"{STOCK_FOLDER}/artifacts"),
]


@dataclass
class Server:
    """One of the two servers in a machine."""

    machine: Machine
    unit: str
    port: int
    start_command: list[str]
    stop_command: list[str]

    def start(self) -> float:
        """Seconds until it is healthy. Where it runs already, this is a restart."""
        return self.machine.inside("inside.py", "start", str(self.port), *self.start_command)

    def stop(self) -> None:
        self.machine.run(*self.stop_command)

    def start_fresh(self) -> float:
        """Seconds to start it after it was stopped."""
        self.stop()
        return self.start()

    def seed(self, runs: int) -> dict:
        return self.machine.inside("inside.py", "seed", str(self.port), str(runs))

    def memory(self) -> float:
        """MB of PSS of all its processes. Only its own user may look into them everywhere."""
        return self.machine.inside("inside.py", "memory", self.unit, user="mlflow")

    def load(self, path: str, **load: Any) -> dict:
        """Send load to it; see load.py, `Load` and `Result`."""
        what = {"port": self.port, "path": f"/api/2.0/mlflow/{path}", **load}
        return self.machine.inside("load.py", json.dumps(what))


@contextmanager
def both(purpose: str) -> Iterator[tuple[Server, Server]]:
    """Ours and stock in a fresh machine, both stopped, each with an initialised database of its own."""
    with started(installed_image(), purpose) as machine:
        units = ["mlflow.socket", "mlflow.service"]
        ours = Server(
            machine, "mlflow.service", 5001, ["systemctl", "restart", "mlflow.service"], ["systemctl", "stop", *units]
        )
        stop_stock = ["sh", "-c", "systemctl stop mlflow-stock.service 2>/dev/null || true"]
        stock = Server(machine, "mlflow-stock.service", 5999, STOCK_COMMAND, stop_stock)
        machine.run("install", "--directory", "--owner=mlflow", "--group=mlflow", STOCK_FOLDER)
        machine.site()  # this machine's name is not the image's; afterwards the settings fit
        ours.stop()
        stock.start()
        stock.stop()
        yield ours, stock
