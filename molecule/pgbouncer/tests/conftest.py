"""The database with its pooler, and the server whose clients share few connections."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from fixtures import Machine, Run

DATABASE, SERVER = "mlflow-pgbouncer-database", "mlflow-pgbouncer-server"
POSTGRES_PORT, POOLER_PORT = 5432, 6432
# Counts the connections that the machine's servers have, by the servers' ports, each 5 ms until standard input ends.
COUNTER = """
import json, sys, threading
ports = [int(port) for port in sys.argv[1:]]
most = dict.fromkeys(ports, 0)
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
print("started", flush=True)
while not stop.wait(0.005):
    here = []
    for path in ("/proc/net/tcp", "/proc/net/tcp6"):
        with open(path) as file:
            rows = [line.split() for line in file.readlines()[1:]]
        # Each once: where connections come and go meanwhile, the kernel may show one twice.
        established = {(row[1], row[2]) for row in rows if row[3] == "01"}
        here += [int(local.rpartition(":")[2], 16) for local, _ in established]
    most = {port: max(most[port], here.count(port)) for port in ports}
print(json.dumps([most[port] for port in ports]))
"""


@dataclass
class Counted:
    """The most connections at once while the block lasted; whole after it."""

    to_postgres: int = 0
    to_pooler: int = 0


class Fleet(Machine):
    """The server; playbooks go over both machines."""

    def __init__(self) -> None:
        super().__init__(SERVER)
        self.database = Machine(DATABASE)

    def playbook(self, *arguments: str, playbook: str = "playbooks/site.yml") -> Run:
        return super().playbook("--limit", "all", *arguments, playbook=playbook)

    def runs(self) -> int:
        return int(self.database.sql("SELECT count(*) FROM runs"))

    @contextmanager
    def counted(self) -> Iterator[Counted]:
        ports = [str(POSTGRES_PORT), str(POOLER_PORT)]
        command = ["docker", "exec", "--interactive", DATABASE, "python3", "-c", COUNTER, *ports]
        counter = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert counter.stdout.readline().strip() == "started"
        seen = Counted()
        try:
            yield seen
        finally:
            seen.to_postgres, seen.to_pooler = json.loads(counter.communicate(timeout=60)[0])


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()
