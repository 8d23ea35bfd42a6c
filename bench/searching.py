"""Group `search`: how long one client waits for the newest runs of an experiment that has many."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from figures import Row, all_side_by_side, at_most, no_more_than
from machines import NotMeasured, say
from servers import Server, both
from serving import PAGE, RUNS_SEARCH, Store

SIZES = [1_000, 10_000, 50_000]
FILTERS = {"newest": "", "newest by a metric": 'metrics."metric-0" > 0.5'}  # half of the runs
SQLITE_MS = 1000  # what a person who opens a page may wait


@dataclass
class Experiment:
    """An experiment of a server that is filled between measurements.

    Attributes:
        runs: how many it has.
    """

    server: Server
    id: str
    runs: int = 0

    @classmethod
    def empty(cls, server: Server) -> "Experiment":
        server.start()
        made = server.seed(0)
        server.stop()
        return cls(server, made["experiment"])

    def grow(self, runs: int) -> None:
        """Give a stopped server's experiment so many runs."""
        self.server.fill(self.id, self.runs + 1, runs)
        self.runs = runs

    def latency(self) -> dict[str, float]:
        """Milliseconds of a page, p50, by the name of its filter."""
        self.server.start()
        self.server.rest()
        if not self.server.is_count(self.id, self.runs):
            raise NotMeasured(f"{self.server.unit} does not find the {self.runs} runs that were written")
        taken = {}
        for name, text in FILTERS.items():
            say(f"  {self.runs} runs, {name}")
            body = {"experiment_ids": [self.id], "max_results": PAGE, "filter": text}
            body["order_by"] = ["attributes.start_time DESC"]
            store = Store(self.server, {RUNS_SEARCH: [json.dumps(body)]})
            store.warm()
            taken[name] = store.latency(RUNS_SEARCH)
        self.server.stop()
        return taken


def search(repeat: int) -> Iterator[Row]:
    """Median milliseconds of a page of runs: on PostgreSQL ours beside stock, on SQLite ours alone."""
    say("search: a machine with both servers on PostgreSQL")
    with both("search", "postgresql") as (ours, stock):
        pair = {"stock": Experiment.empty(stock), "ours": Experiment.empty(ours)}
        for figure, of in measured(pair, repeat):
            yield Row(f"search: {figure}", "ms", of["ours"], of["stock"], at_most(1, "stock"))
    say("search: a machine with ours on SQLite")
    with both("search", "sqlite") as (ours, _):
        for figure, of in measured({"ours": Experiment.empty(ours)}, repeat):
            yield Row(f"search: {figure}, SQLite", "ms", of["ours"], None, no_more_than(SQLITE_MS, "ms"))


def measured(experiments: dict[str, Experiment], repeat: int) -> Iterator[tuple[str, dict[str, float]]]:
    """What was measured, and the median of each server."""
    for size in SIZES:
        for experiment in experiments.values():
            experiment.grow(size)
        of = all_side_by_side(repeat, {name: experiment.latency for name, experiment in experiments.items()})
        for which in FILTERS:
            yield f"{size:,} runs, {which}", {name: latencies[which] for name, latencies in of.items()}
