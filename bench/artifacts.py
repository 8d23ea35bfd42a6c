"""Group `artifacts`: one large artifact through the server, up and down; seconds, and memory it takes meanwhile."""

from collections.abc import Iterator
from statistics import median

from figures import Row, at_most, no_more_than
from machines import say
from servers import Server, both

MEBIBYTES = 512
GROWTH_MB = 100  # what a server may take for one transfer, whatever the artifact's size


def artifacts(repeat: int) -> Iterator[Row]:
    """Ours beside stock, each with a folder on the same disk as its artifact store, and a SQLite database."""
    say("artifacts: a machine with both servers")
    taken: dict[tuple[str, str], list[dict]] = {}
    with both("artifacts") as (ours, stock):
        for _ in range(repeat):
            for name, server in {"stock": stock, "ours": ours}.items():
                for way in ("up", "down"):
                    taken.setdefault((way, name), []).append(transfer(server, way))
                server.artifact("remove", MEBIBYTES)
                server.stop()
    for way in ("up", "down"):
        for what, unit, target in (
            ("seconds", "s", at_most(1.1, "stock")),
            ("growth", "MB", no_more_than(GROWTH_MB, "MB")),
        ):
            medians = {name: median(result[what] for result in taken[way, name]) for name in ("ours", "stock")}
            figure = f"artifacts: {MEBIBYTES} MiB {way}, {'time' if what == 'seconds' else 'growth of memory'}"
            yield Row(figure, unit, medians["ours"], medians["stock"], target)


def transfer(server: Server, way: str) -> dict:
    """On a server that was just started: memory that an earlier transfer took and kept would hide this one's."""
    server.start_fresh()
    result = server.artifact(way, MEBIBYTES)
    say(f"  {server.unit} {MEBIBYTES} MiB {way}: {result['seconds']:.2f} s, memory grew by {result['growth']:.0f} MB")
    return result
