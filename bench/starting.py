"""Groups `start` and `memory`: how long a server takes to start, and what it then holds."""

from collections.abc import Iterator

from figures import Row, at_most, side_by_side
from machines import say
from servers import Server, both
from serving import Store

WARM_CLIENTS = 8
WARM_SECONDS = 2.0


def start(repeat: int) -> Iterator[Row]:
    """Seconds from a stopped to a healthy server, ours beside stock.

    Both have compiled bytecode, a warm page cache and an initialised database. Ours counts as
    started when all its workers are warm, stock when its first one answers.
    """
    say("start: a machine with both servers")
    with both("start") as (ours, stock):

        def measure(server: Server) -> float:
            seconds = server.start_fresh()
            server.stop()
            say(f"start: {server.unit} {seconds:.2f} s")
            return seconds

        taken = side_by_side(repeat, {"ours": lambda: measure(ours), "stock": lambda: measure(stock)})
    yield Row("start: stopped to healthy", "s", taken["ours"], taken["stock"], at_most(0.6, "stock"))


def memory(repeat: int) -> Iterator[Row]:
    """MB of PSS after a start and a few requests to each worker."""
    say("memory: a machine with both servers")
    with both("memory") as (ours, stock):

        def measure(server: Server) -> float:
            server.start()
            store = Store.seeded(server, runs=20)
            for path in ("experiments/search", "runs/search", "runs/log-batch"):
                store.load(path, clients=WARM_CLIENTS, seconds=WARM_SECONDS)
            megabytes = server.memory()
            server.stop()
            say(f"memory: {server.unit} {megabytes:.0f} MB")
            return megabytes

        taken = side_by_side(repeat, {"ours": lambda: measure(ours), "stock": lambda: measure(stock)})
    yield Row("memory: PSS when warm", "MB", taken["ours"], taken["stock"], at_most(0.5, "stock"))
