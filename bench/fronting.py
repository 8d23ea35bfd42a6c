"""Groups `front` and `balance`: what a request costs by HAProxy and TLS, and what a second server behind it brings."""

import csv
import json
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from figures import Row, Target, all_side_by_side, at_least, at_most, no_more_than, side_by_side
from machines import (
    CACHE,
    HERE,
    SITE,
    Machine,
    NotMeasured,
    bare_image,
    installed_image,
    network,
    run,
    run_playbook,
    say,
    started,
)
from servers import BACKENDS, PASSWORD, Server, pair
from serving import LOG_BATCH, PATHS, RUNS, RUNS_SEARCH, Store

CLIENTS = 64
SECONDS = 5.0
# The load's name for the front, and no limit for the one address that all of the load has
FRONT = {"haproxy_names": ["127.0.0.1"], "haproxy_unlimited_networks": ["127.0.0.0/8"]}

LEVELS = (16, 64)  # clients of the group `balance`
CORES = 0.4  # that each of its servers may take: the front, the database and the clients need the others


def fronted(server: Server, machine: Machine) -> Server:
    """The server as clients on the front's machine reach it."""
    return replace(server, machine=machine, port=443, tls=True)


def front(repeat: int) -> Iterator[Row]:
    """Milliseconds for one client and answers per second for many, through the front beside direct, in turns."""
    say("front: a machine with MLflow and HAProxy")
    with started(installed_image(), "front", volumes=[CACHE]) as machine:
        settings = {**FRONT, "mlflow_host": "127.0.0.1"}
        run_playbook(SITE, {"mlflow": [machine], "haproxy": [machine]}, "--extra-vars", json.dumps(settings))
        server, _ = pair(machine, BACKENDS["sqlite"])
        server.start()
        direct = Store.seeded(server, RUNS)
        stores = {"direct": direct, "front": replace(direct, server=fronted(server, machine))}
        for store in stores.values():
            store.warm()
        for path in PATHS:
            of = side_by_side(repeat, {name: partial(store.latency, path) for name, store in stores.items()})
            figure = f"front: {path}, 1 client, p50, beside direct"
            yield Row(figure, "ms", of["front"], of["direct"], no_more_than(of["direct"] + 2, "ms"))
        for path in (RUNS_SEARCH, LOG_BATCH):
            rates = {}
            for name, store in stores.items():
                rates[name] = store.answered(path, CLIENTS, SECONDS)["per_second"]
                store.settle()
            figure = f"front: {path}, {CLIENTS} clients, beside direct"
            yield Row(figure, "per s", rates["front"], rates["direct"], at_least(0.85, "direct"))


@dataclass
class Balanced:
    """A front and the servers behind it, each on a machine of its own."""

    front: Machine
    servers: list[Machine]

    def send_to(self, number: int) -> None:
        """Have the front send requests to so many of the servers only."""
        for position, server in enumerate(self.servers):
            state = "ready" if position < number else "drain"
            self.front.inside("inside.py", "haproxy", f"set server mlflow/{server.name} state {state}")
        self.check(number)

    def check(self, number: int) -> None:
        """Refuse to measure where the front sends requests to fewer servers or more."""
        up = [name for name, row in self.statistics().items() if row["status"] == "UP"]
        if len(up) != number:
            raise NotMeasured(f"{number} servers should be up at {self.front.name}, and {len(up)} are")

    def requests(self) -> list[int]:
        """How many requests each server was sent so far, the servers' own checks left out."""
        return [int(row["stot"]) for row in self.statistics().values()]

    def statistics(self) -> dict[str, dict[str, str]]:
        """What the front knows of each server; see HAProxy's management guide, 9.1, CSV format."""
        rows = csv.DictReader(self.front.inside("inside.py", "haproxy", "show stat").removeprefix("# ").splitlines())
        names = [server.name for server in self.servers]
        return {row["svname"]: row for row in rows if row["pxname"] == "mlflow" and row["svname"] in names}


@contextmanager
def balanced() -> Iterator[Balanced]:
    """A front and two servers that share a PostgreSQL, on a network of their own."""
    bare, installed = bare_image(), installed_image()
    with (
        network("balance") as ours,
        started(bare, "balance-database", network=ours) as database,
        started(bare, "balance-front", network=ours) as front,
        started(installed, "balance-server", network=ours) as first,
        started(installed, "balance-server", network=ours) as second,
    ):
        settings = {
            **FRONT,
            "mlflow_host": "0.0.0.0",
            "mlflow_allow_anonymous": True,
            "mlflow_workers": 2,
            "mlflow_backend_store": "postgresql",
            "mlflow_postgres_host": database.name,
            "mlflow_postgres_password": PASSWORD,
        }
        options = ["--extra-vars", json.dumps(settings)]
        run_playbook(HERE / "database.yml", {"database": [database]}, *options)
        run_playbook(SITE, {"mlflow": [first, second], "haproxy": [front]}, *options)
        for server in (first, second):
            run("docker", "update", f"--cpus={CORES}", server.name)
        yield Balanced(front, [first, second])


def balance(repeat: int) -> Iterator[Row]:
    """Answers per second and p50 behind the front, of two servers beside one of them, in turns."""
    say("balance: a front and two servers that share a PostgreSQL")
    with balanced() as group:
        server, _ = pair(group.servers[0], BACKENDS["postgresql"])
        store = replace(Store.seeded(server, RUNS), server=fronted(server, group.front))
        store.warm()

        def measure(number: int) -> dict[Hashable, float]:
            say(f"balance: {number} of {len(group.servers)} servers")
            group.send_to(number)
            before = group.requests()
            taken: dict[Hashable, float] = {}
            for path in PATHS:
                for clients in LEVELS:
                    result = store.answered(path, clients, SECONDS)
                    taken |= {(path, clients, what): result[what] for what in ("per_second", "p50_ms")}
            group.check(number)
            sent = [now - then for now, then in zip(group.requests(), before, strict=True)]
            return {**taken, "share": 100 * min(sent) / sum(sent)}

        of = all_side_by_side(repeat, {number: partial(measure, number) for number in (1, 2)})
    targets: dict[str, tuple[str, str, Target]] = {
        "per_second": ("", "per s", at_least(1.5, "one server")),
        "p50_ms": (", p50", "ms", at_most(0.75, "one server")),
    }
    for path in PATHS:
        for clients in LEVELS:
            for what, (name, unit, target) in targets.items():
                figure = f"balance: {path}, {clients} clients{name}, two servers beside one"
                yield Row(figure, unit, of[2][path, clients, what], of[1][path, clients, what], target)
    yield Row("balance: requests of the server that was sent fewer", "%", of[2]["share"], 50, at_least(0.8, "one half"))
