"""The bench: what this role does for speed and memory, measured beside what one would do without it.

    python bench/run.py                     all groups, some 90 minutes
    python bench/run.py --only serving      one group; may be given again
    python bench/run.py --only start --repeat 1

Prints a table and writes build/bench.json. Exits with 0 when every figure was measured, whether or
not it met its target, and with 1 when one could not be measured. What each means: bench/README.md
"""

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from artifacts import artifacts
from changing import changing
from figures import Row, table
from fleet import fleet
from fronting import balance, front
from machines import ROOT, NotMeasured, SetupError, say
from provision import idle, provision
from searching import search
from serving import serving
from starting import memory, start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3, help="measure so many times, the median counts (3)")
    parser.add_argument("--seconds", type=float, default=8, help="how long many clients send, at each level (8)")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "bench.json", help="build/bench.json")
    names = [
        "provision",
        "idle",
        "fleet",
        "start",
        "memory",
        "serving",
        "postgresql",
        "accounts",
        "search",
        "artifacts",
        "front",
        "balance",
        "changing",
    ]
    parser.add_argument("--only", action="append", choices=names, help="measure this group only")
    arguments = parser.parse_args()
    repeat = arguments.repeat
    groups: dict[str, Callable[[], Iterator[Row]]] = {
        "provision": lambda: provision(repeat),
        "idle": lambda: idle(repeat),
        "fleet": lambda: fleet(repeat),
        "start": lambda: start(repeat),
        "memory": lambda: memory(repeat),
        "serving": lambda: serving(repeat, arguments.seconds),
        "postgresql": lambda: serving(repeat, arguments.seconds, "postgresql", "postgresql"),
        "accounts": lambda: serving(repeat, arguments.seconds, "accounts", "accounts"),
        "search": lambda: search(repeat),
        "artifacts": lambda: artifacts(repeat),
        "front": lambda: front(repeat),
        "balance": lambda: balance(repeat),
        "changing": lambda: changing(repeat),
    }

    # ansible-playbook is beside the Python that runs this; an ended bench still removes its machines
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))

    rows: list[Row] = []
    failures: list[str] = []
    try:
        for name in arguments.only or names:
            try:
                for row in groups[name]():
                    rows.append(row)
            except (NotMeasured, SetupError, OSError, ValueError) as error:
                say(f"{name}: not measured")
                failures.append(f"{name} could not be measured, or not in full: {error}")
    finally:  # what was measured is said, even when the bench is ended half-way
        print(table(rows))
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps([row.as_json() for row in rows], indent=2, ensure_ascii=False) + "\n")
    for failure in failures:
        print(f"\n{failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
