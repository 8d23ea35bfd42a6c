"""The schema of the databases: ``python -m mlflow_service.schema show | migrate | revisions``, as the service's user.

Prints what the databases have after it, or the revisions that the release knows, as JSON.
"""

import argparse
import json
import sys
from dataclasses import asdict

from mlflow_service.stores import schema, waiting


def main() -> None:
    parser = argparse.ArgumentParser(prog="mlflow_service.schema", description="The schema of the databases.")
    parser.add_argument("command", choices=("show", "migrate", "revisions"))
    command = parser.parse_args().command
    if command == "revisions":
        print(json.dumps(schema.known()))
        return
    try:
        said = {"before": schema.migrate()} if command == "migrate" else {}
        print(json.dumps({**asdict(schema.show()), **said}))
    except waiting.LockedError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
