"""Make users and permissions what the inventory says: ``python -m mlflow_service.users [--check]``, as root.

Reads a `reconcile.Wanted` from standard input and prints ``{"changed": [sentence, …], "errors": [sentence, …],
"waiting": [sentence, …]}``, both JSON. With ``--check`` nothing is changed. Standard library only.
"""

import argparse
import json
import sys

from mlflow_service.accounts import reconcile


def main() -> None:
    parser = argparse.ArgumentParser(prog="mlflow_service.users", description="Make users what the inventory says.")
    parser.add_argument("--check", action="store_true", help="say what would change, and change nothing")
    pretend = parser.parse_args().check
    print(json.dumps(reconcile.reconcile(reconcile.Wanted(**json.load(sys.stdin)), pretend)))


if __name__ == "__main__":
    main()
