"""Group `artifacts`: one large artifact through the server, up and down; seconds, and memory it takes meanwhile."""

from collections.abc import Iterator

from figures import Row, all_side_by_side, at_most, no_more_than
from machines import say
from servers import Server, both

MEBIBYTES = 512
GROWTH_MB = 100  # what a server may take for one transfer, whatever the artifact's size


def artifacts(repeat: int) -> Iterator[Row]:
    """Ours beside stock, each with a folder on the same disk as its artifact store, and a SQLite database."""
    say("artifacts: a machine with both servers")
    with both("artifacts") as (ours, stock):
        of = all_side_by_side(repeat, {"stock": lambda: there_and_back(stock), "ours": lambda: there_and_back(ours)})
    for way in ("up", "down"):
        for what, unit, target in (
            ("seconds", "s", at_most(1.1, "stock")),
            ("growth", "MB", no_more_than(GROWTH_MB, "MB")),
        ):
            figure = f"artifacts: {MEBIBYTES} MiB {way}, {'time' if what == 'seconds' else 'growth of memory'}"
            yield Row(figure, unit, of["ours"][way, what], of["stock"][way, what], target)


def there_and_back(server: Server) -> dict[tuple[str, str], float]:
    """Seconds, and MB of growth, by the way and which of both it is."""
    taken = {(way, what): value for way in ("up", "down") for what, value in transfer(server, way).items()}
    server.artifact("remove", MEBIBYTES)
    server.stop()
    return taken


def transfer(server: Server, way: str) -> dict:
    """On a server that was just started: memory that an earlier transfer took and kept would hide this one's."""
    server.start_fresh()
    result = server.artifact(way, MEBIBYTES)
    say(f"  {server.unit} {MEBIBYTES} MiB {way}: {result['seconds']:.2f} s, memory grew by {result['growth']:.0f} MB")
    return result
