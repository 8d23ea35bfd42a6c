"""The Prometheus on the machine, and the deep check's state there."""

import json
import urllib.parse

import pytest
from fixtures import Machine, wait_until


class Prometheus:
    """Asked from the machine itself, since it listens on loopback."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def ask(self, path: str) -> dict:
        code = "import sys, urllib.request as u; print(u.urlopen('http://127.0.0.1:9090/api/v1/' + sys.argv[1]).read().decode())"
        answer = json.loads(self.machine.host.check_output("python3 -c %s %s", code, path))
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression: str) -> list[dict]:
        return self.ask(f"query?query={urllib.parse.quote(expression)}")["result"]

    def value(self, expression: str) -> float:
        """The one value of an expression."""
        (sample,) = self.query(expression)
        return float(sample["value"][1])

    def firing(self) -> set[str]:
        """Names of the alerts that fire."""
        return {alert["labels"]["alertname"] for alert in self.ask("alerts")["alerts"] if alert["state"] == "firing"}


@pytest.fixture
def prometheus(machine: Machine) -> Prometheus:
    return Prometheus(machine)


@pytest.fixture
def quiet(machine: Machine, prometheus: Prometheus) -> None:
    """Nothing is wrong when a test begins."""

    def all_is_well() -> bool:
        wrong = prometheus.firing() - {"MlflowWorkerHung", "MlflowErrors", "MlflowSlow"}  # they look back for a while
        return not wrong and len(machine.workers()) == machine.wanted_workers

    machine.wanted_workers = int(machine.run("sed -n 's/^MLFLOW_WORKERS=\"\\(.*\\)\"/\\1/p' /etc/mlflow/mlflow.env"))
    wait_until(all_is_well, 240, "nothing is wrong")
