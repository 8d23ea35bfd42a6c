"""Ask the stores what the service will ask of them: ``python -m mlflow_service.preflight``, as root.

Reads a `probes.Wanted` from standard input and prints what `probes.answer` returns, both JSON, so that no secret
stands in a command line. With the name of a part it asks for that part alone, as whoever runs it.
"""

import argparse
import json
import sys

from mlflow_service.stores import probes


def main() -> None:
    parser = argparse.ArgumentParser(prog="mlflow_service.preflight", description="Ask the stores.")
    parser.add_argument("part", nargs="?", choices=probes.STEPS, help="one part alone, as the service's user")
    part = parser.parse_args().part
    wanted = probes.Wanted(**json.load(sys.stdin))
    print(json.dumps(probes.examine(probes.STEPS[part], wanted) if part else probes.answer(wanted)))


if __name__ == "__main__":
    main()
