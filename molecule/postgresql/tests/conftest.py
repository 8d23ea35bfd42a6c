"""How the tests speak to the PostgreSQL servers."""

import pytest
import testinfra
from fixtures import Machine

SERVER = "mlflow-postgresql-server"


class Postgres:
    """A PostgreSQL server on a machine, asked as its superuser."""

    def __init__(self, name: str) -> None:
        self.host = testinfra.get_host(f"docker://{name}")

    def ask(self, query: str, database: str = "postgres") -> str:
        return self.host.check_output("psql --username=postgres --dbname=%s -Atc %s", database, query)

    def make(self, database: str) -> None:
        """Make a database for the service, with no tables in it."""
        self.ask(f"CREATE DATABASE {database} OWNER mlflow ENCODING 'UTF8' TEMPLATE template0")


@pytest.fixture
def local(machine: Machine) -> Postgres:
    """The server on the machine under test."""
    return Postgres(machine.name)


@pytest.fixture
def server() -> Postgres:
    """The server elsewhere."""
    return Postgres(SERVER)
