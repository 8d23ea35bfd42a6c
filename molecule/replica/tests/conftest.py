"""The two databases, and the server that uses both."""

import json
import os
import urllib.request

import pytest
from fixtures import Machine, Run, wait_until

PRIMARY, REPLICA, SERVER = "mlflow-replica-1", "mlflow-replica-2", "mlflow-replica-server"
VERSION = "15"  # Debian 12's
DATA = f"/var/lib/postgresql/{VERSION}/main"


class Database(Machine):
    """A machine with PostgreSQL."""

    unit = f"postgresql@{VERSION}-main.service"

    def streams(self) -> bool:
        command = self.psql("SELECT status FROM pg_stat_wal_receiver", "postgres")
        return self.host.run(*command).stdout.strip() == "streaming"  # it may be about to start

    def scans(self) -> int:
        """How often anything was read from the table of runs here."""
        return int(self.sql("SELECT seq_scan + idx_scan FROM pg_stat_user_tables WHERE relname = 'runs'") or 0)


class Fleet:
    """All of it."""

    def __init__(self) -> None:
        self.primary, self.replica, self.server = Database(PRIMARY), Database(REPLICA), Machine(SERVER)

    def playbook(self, *arguments: str, limit: str = "all") -> Run:
        return self.server.playbook("--limit", limit, *arguments)

    def settle(self, limit: str = "all", **settings: object) -> Run:
        done = self.playbook("--extra-vars", json.dumps(settings), limit=limit)
        assert done.status == 0, done.output[-6000:]
        return done

    def refuses(self, limit: str, **settings: object) -> str:
        done = self.playbook("--extra-vars", json.dumps(settings), limit=limit)
        assert done.status != 0
        return done.said

    def ask(self, path: str, body: dict | None = None, timeout: float = 60) -> tuple[int, dict]:
        """Status and answer of MLflow's API; a body makes it a POST."""
        request = urllib.request.Request(f"{self.server.url}/api/2.0/mlflow/{path}")
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def create_run(self, timeout: float = 60) -> str:
        status, said = self.ask("runs/create", {"experiment_id": "0", "run_name": "of-the-scenario"}, timeout)
        assert status == 200, said
        return said["run"]["info"]["run_id"]

    def wait_same(self) -> None:
        """Until the replica has what the primary has."""
        position = self.primary.sql("SELECT pg_current_wal_lsn()")
        behind = f"SELECT pg_last_wal_replay_lsn() >= '{position}'"
        wait_until(lambda: self.replica.sql(behind) == "t", 60, "the replica has caught up")


@pytest.fixture
def fleet() -> Fleet:
    assert os.environ["MOLECULE_INVENTORY_FILE"]
    return Fleet()
