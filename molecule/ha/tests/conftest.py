"""Both servers, the fronts before them, and clients on another machine, over TLS and with the admin's password."""

import base64
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from fixtures import Machine, Run, Traffic, wait_until

SERVERS = ("mlflow-ha-1", "mlflow-ha-2")
FRONTS = ("mlflow-ha-front-1", "mlflow-ha-front-2")
DATABASE = "mlflow-ha-database"
CLIENTS = 4


@dataclass
class Fault:
    """What clients saw of one fault, and of their runs those that are not in the store."""

    name: str
    seen: Traffic
    lost: set[str]


FAULTS: list[Fault] = []


class Fleet(Machine):
    """All of it: as a machine it is the one of the clients and the database, and playbooks go over all machines."""

    def __init__(self) -> None:
        super().__init__(DATABASE)
        self.port = 443
        self.limit = "all"
        self.servers = [Machine(name) for name in SERVERS]
        self.fronts = [Machine(name) for name in FRONTS]
        self.address = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"], "virtual-address").read_text().split("/")[0]
        password = self.servers[0].run("cat /etc/mlflow/secrets/admin-password").strip()
        authorization = "Basic " + base64.b64encode(f"admin:{password}".encode()).decode()
        self.host.check_output("printf %%s %s > /srv/authorization", authorization)

    def playbook(self, *arguments: str, playbook: str = "playbooks/site.yml") -> Run:
        """Run a playbook over all machines, or those of the limit."""
        return super().playbook("--limit", self.limit, *arguments, playbook=playbook)

    @contextmanager
    def clients(self, fault: str, *options: str) -> Iterator[Traffic]:
        """Clients of the address that go on for as long as the block lasts; not one run that they made may be lost."""
        with self.traffic(CLIENTS, "--name", "mlflow.test", *options) as seen:
            yield seen
        FAULTS.append(Fault(fault, seen, self.lost(seen.stored)))
        assert (FAULTS[-1].lost, seen.created > 0) == (set(), True)
        print(fault, *seen.failures[:3], sep="\n")

    def ask(self, url: str, method: str = "GET", body: str = "") -> str:
        """What a client is answered with 200."""
        code = """
import ssl, sys, urllib.request
url, method, body = sys.argv[1:]
headers = {"Authorization": open("/srv/authorization").read(), "Content-Type": "application/octet-stream"}
request = urllib.request.Request(url, body.encode() or None, headers, method=method)
trusted = ssl.create_default_context(cafile="/srv/ca.pem") if url.startswith("https:") else None
print(urllib.request.urlopen(request, timeout=120, context=trusted).read().decode(), end="")
"""
        return self.host.check_output("python3 -c %s %s %s %s", code, url, method, body)

    def runs(self) -> int:
        return int(self.sql("SELECT count(*) FROM runs"))

    def wait_stored(self, what: str, more: int = 2 * CLIENTS) -> None:
        """Until so many more runs are stored than there are."""
        before = self.runs()
        wait_until(lambda: self.runs() > before + more, 120, what)

    def lost(self, stored: list[str]) -> set[str]:
        """Ids of runs that are not in the store."""
        return set(stored) - set(self.sql("SELECT run_uuid FROM runs").split())

    def revision(self) -> str:
        return self.sql("SELECT version_num FROM alembic_version")

    def versions(self) -> list[str]:
        """Of what runs on each server: the check asks the server for the version of the release that is linked there."""
        assert all(server.is_healthy() for server in self.servers)
        return [server.run("basename $(readlink /opt/mlflow/current)").split("-")[0] for server in self.servers]

    def holders(self) -> list[Machine]:
        """The fronts that have the address; one that does not run has none."""
        shown = {front: front.host.run("hostname --all-ip-addresses") for front in self.fronts}
        return [front for front, done in shown.items() if self.address in done.stdout.split()]

    @property
    def front(self) -> Machine:
        """The one that has the address."""
        (holder,) = self.holders()
        return holder

    def up(self) -> list[str]:
        """The servers that the front sends requests to."""
        said = self.front.run(
            'python3 -c \'import socket; s = socket.socket(socket.AF_UNIX); s.connect("/run/haproxy/admin.sock");'
            ' s.sendall(b"show stat\\n"); print(s.makefile().read())\''
        )
        rows = [line.split(",") for line in said.splitlines()]
        return [row[1] for row in rows if row[0] == "mlflow" and row[1] in SERVERS and row[17] == "UP"]


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What each fault cost its clients."""
    row = "{:44} {:>9} {:>7} {:>13} {:>12}".format
    terminalreporter.section("faults under load")
    terminalreporter.line(row("fault", "answered", "failed", "longest wait", "writes lost"))
    for fault in FAULTS:
        seen = fault.seen
        figures = (seen.answered, len(seen.failures), f"{seen.longest_seconds} s", len(fault.lost))
        terminalreporter.line(row(fault.name, *figures))
