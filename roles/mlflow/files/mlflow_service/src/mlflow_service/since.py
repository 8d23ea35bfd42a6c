"""What the store has been given since a moment: ``python -m mlflow_service.since MILLISECONDS``, as the service's user.

Prints ``{kind: count}`` for the database of ``MLFLOW_BACKEND_STORE_URI``.
"""

import argparse
import json

from mlflow_service.stores import schema


def main() -> None:
    parser = argparse.ArgumentParser(prog="mlflow_service.since", description="What the store has been given.")
    parser.add_argument("milliseconds", type=int, help="the moment, since 1970")
    print(json.dumps(schema.since(parser.parse_args().milliseconds)))


if __name__ == "__main__":
    main()
