"""Groups `serving` (SQLite), `postgresql` and `accounts`: latency for one client, answers per second for many."""

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

from figures import Row, all_side_by_side, at_least, at_most, no_more_than
from load import UNIQUE
from machines import NotMeasured, say
from servers import Server, both, max_connections, refused_connections

LEVELS = [16, 64, 128, 200]
RUNS = 100
PAGE = 20  # runs, or experiments, in an answer to a search
RAMP_SECONDS = 2.0
LATENCY_SECONDS = 5.0
TIMEOUT_SECONDS = 40.0  # the connection pool gives up after 30 s, so that a stall shows as what it is
SETTLE_SECONDS = 90.0
SETTLED_MS = 1000.0
LOG_BATCH, RUNS_SEARCH, EXPERIMENTS_SEARCH = "runs/log-batch", "runs/search", "experiments/search"
PATHS = (LOG_BATCH, RUNS_SEARCH, EXPERIMENTS_SEARCH)


@dataclass
class Store:
    """A server's database with an experiment in it, and the requests that go to it.

    Attributes:
        bodies: JSON documents by path.
        settled_ms: how long a request takes at most when the server has nothing left to do.
    """

    server: Server
    bodies: dict[str, list[str]]
    settled_ms: float = SETTLED_MS

    @classmethod
    def seeded(cls, server: Server, runs: int) -> "Store":
        """Make an experiment with so many runs. The server runs."""
        made = server.seed(runs)
        unique = int(UNIQUE)
        now = time.time_ns() // 1_000_000
        metrics = [{"key": f"metric-{n}", "value": 0.5, "timestamp": now, "step": unique} for n in range(5)]
        search = {
            "experiment_ids": [made["experiment"]],
            "max_results": PAGE,
            "order_by": ["attributes.start_time DESC"],
        }
        bodies = {
            LOG_BATCH: [json.dumps({"run_id": run, "metrics": metrics}) for run in made["runs"]],
            RUNS_SEARCH: [json.dumps(search)],
            EXPERIMENTS_SEARCH: [json.dumps({"max_results": PAGE})],
        }
        return cls(server, bodies)

    def send(self, path: str, clients: int, ramp: float, seconds: float) -> dict:
        what = {"clients": clients, "ramp": ramp, "seconds": seconds, "timeout": TIMEOUT_SECONDS}
        return self.server.load(path, bodies=self.bodies[path], **what)

    def load(self, path: str, clients: int, seconds: float) -> dict:
        """Send load and say what came back; see load.py, `Load` and `Result`."""
        result = self.send(path, clients, RAMP_SECONDS, seconds)
        failed = f", failed: {result['failures']}" if result["failures"] else ""
        rate, p50, p99 = result["per_second"], result["p50_ms"], result["p99_ms"]
        say(f"  {self.server.unit} {path}, {clients} clients: {rate} per s, p50 {p50} ms, p99 {p99} ms{failed}")
        return result

    def answered(self, path: str, clients: int, seconds: float) -> dict:
        """The same, where no request may fail."""
        result = self.load(path, clients, seconds)
        if result["failures"] or result["p50_ms"] is None:
            raise NotMeasured(f"{path}, {clients} clients, failed on {self.server.unit}: {result['failures']}")
        return result

    def latency(self, path: str) -> float:
        """Milliseconds that one client waits, p50."""
        return self.answered(path, 1, LATENCY_SECONDS)["p50_ms"]

    def latencies(self) -> dict[str, float]:
        """The same by path, of a server that was just started. It is stopped then."""
        self.server.start()
        self.server.rest()
        self.warm()
        taken = {path: self.latency(path) for path in PATHS}
        self.server.stop()
        return taken

    def settle(self) -> None:
        """Wait until the server has nothing left to do of what clients have given up waiting for.

        A server that does not get over it is started anew, so that one level does not spoil the next.
        """
        deadline = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < deadline:
            if self.probe() < self.settled_ms:
                return
        say(f"  {self.server.unit} does not recover, starting it anew")
        self.server.start_fresh()

    def probe(self) -> float:
        """Milliseconds that a few clients wait at most, p99; without end where one of them fails."""
        result = self.send(EXPERIMENTS_SEARCH, clients=8, ramp=0, seconds=1)
        return math.inf if result["failures"] or result["p99_ms"] is None else result["p99_ms"]

    def warm(self) -> None:
        """A few requests of each kind, so that no worker meets one for the first time when it counts."""
        for path in self.bodies:
            self.send(path, clients=4, ramp=0, seconds=1)


def serving(repeat: int, seconds: float, group: str = "serving", backend: str = "sqlite") -> Iterator[Row]:
    """One client's latency and many clients' answers per second, ours beside stock.

    Args:
        repeat: how many times each latency is measured; the median counts.
        seconds: how long each level of clients sends.
        group: what the figures' names begin with.
        backend: of both servers; see `servers.both`.
    """
    say(f"{group}: a machine with both servers, each with a fresh database")
    with both(group, backend) as (ours, stock):
        stores = {}
        for name, server in {"stock": stock, "ours": ours}.items():
            server.start()
            stores[name] = Store.seeded(server, RUNS)
            server.stop()
        yield from latency(group, stores, repeat)
        for path in (RUNS_SEARCH, LOG_BATCH):
            yield from many_clients(group, stores, path, seconds)
        if backend == "postgresql" and (refused := refused_connections(ours.machine)):
            raise NotMeasured(
                f"PostgreSQL refused {refused} connections beyond its {max_connections(ours.machine)}, "
                "so that the figures are not those of the servers"
            )


def latency(group: str, stores: dict[str, Store], repeat: int) -> Iterator[Row]:
    of = all_side_by_side(repeat, {name: store.latencies for name, store in stores.items()})
    for path in PATHS:
        figure = f"{group}: {path}, 1 client, p50"
        yield Row(figure, "ms", of["ours"][path], of["stock"][path], at_most(0.25, "stock"))


def many_clients(group: str, stores: dict[str, Store], path: str, seconds: float) -> Iterator[Row]:
    rates: dict[str, list[float]] = {}
    failures: dict[str, int] = {}
    for name, store in stores.items():
        store.server.start()
        store.server.rest()
        store.warm()
        # A server that hashes passwords is slow when it has nothing else to do, too
        store.settled_ms = max(SETTLED_MS, 2 * store.probe())
        results = []
        for clients in LEVELS:
            results.append(store.load(path, clients, seconds))
            store.settle()
        store.server.stop()
        rates[name] = [result["per_second"] for result in results]
        failures[name] = sum(sum(result["failures"].values()) for result in results)
    best = max(rates["stock"])
    for clients, rate, stock_rate in zip(LEVELS, rates["ours"], rates["stock"], strict=True):
        target = at_least(1, f"stock's best level (at this one stock has {stock_rate:g})")
        yield Row(f"{group}: {path}, {clients} clients", "1/s", rate, best, target)
    first, weakest = rates["ours"][0], min(rates["ours"])
    figure = f"{group}: {path}, our weakest level beside {LEVELS[0]} clients"
    yield Row(figure, "1/s", weakest, first, at_least(0.8, f"ours at {LEVELS[0]}"))
    figure = f"{group}: {path}, failed requests at all levels"
    yield Row(figure, "requests", failures["ours"], failures["stock"], no_more_than(0))
