"""The machine in place of the old service, and what stands around it on the service's network."""

import json
import os
from pathlib import Path

import machine as machines
import pytest
import testinfra
from fixtures import SHARED, Machine, Run
from google_cloud import Google

NAME = "mlflow-compose"
SERVICES = Path(os.environ["OLD_SERVICES"])  # prepare.yml has written fields/.env and references/.env into it


class Service(Machine):
    """The machine, provisioned by a `.env` as its user types it."""

    def provision(self, dotenv: Path, *arguments: str, **settings: object) -> Run:
        """Run site.yml; it may fail."""
        told = {"target": "compose", "mlflow_dotenv": str(dotenv), **settings}
        return self.playbook("--extra-vars", json.dumps(told), *arguments)


class Client:
    """A machine that has MLflow, and of the server no more than its name on the network."""

    name = f"{NAME}-client"

    def run(self, script: str, *arguments: str, port: int = 5001) -> dict:
        """Run a script of molecule/shared/clients; returns the JSON that it prints."""
        variables = {
            "MLFLOW_TRACKING_URI": f"http://mlflow-service:{port}",
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        said = machines.docker(
            *("exec", "--interactive", *(f"--env={name}={value}" for name, value in variables.items())),
            *(self.name, "/opt/mlflow/current/bin/python", "-", *arguments),
            input=(SHARED / "clients" / script).read_text(),
            timeout=300,
        )
        return json.loads(said.splitlines()[-1])


class Database:
    """The old service's PostgreSQL, asked as its superuser."""

    def __init__(self) -> None:
        self.host = testinfra.get_host(f"docker://{NAME}-database")

    def ask(self, query: str) -> str:
        return self.host.check_output("psql --username=postgres --dbname=tracking -Atc %s", query)


@pytest.fixture(scope="session")
def machine() -> Service:
    return Service(NAME)


@pytest.fixture(scope="session")
def client() -> Client:
    return Client()


@pytest.fixture(scope="session")
def database() -> Database:
    return Database()


@pytest.fixture(scope="session")
def google() -> Google:
    return Google(NAME)
