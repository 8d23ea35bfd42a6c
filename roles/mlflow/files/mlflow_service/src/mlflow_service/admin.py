"""The ``mlflow`` command with the service's own store: ``python -m mlflow_service.admin ARGUMENTS``.

``mlflow`` reads most of what it needs from the environment. Where a sub-command takes the store
on its command line only, it is added here, unless the caller names one.
"""

import os
import sys
from collections.abc import MutableMapping

from mlflow_service.accounts import local_key, passphrases
from mlflow_service.stores import pooler
from mlflow_service.system import without_gc

DB_COMMANDS = ("upgrade", "prepopulate-trace-analytics")


def with_store(arguments: list[str], store: str) -> list[str]:
    """ARGUMENTS, with the backend store URI where the sub-command would want it typed."""
    if arguments[:1] == ["gc"] and not any(a.startswith("--backend-store-uri") for a in arguments):
        return ["gc", "--backend-store-uri", store, *arguments[1:]]
    names_one = any("://" in a or a == "--help" for a in arguments[2:])
    if arguments[:1] == ["db"] and arguments[1:2] and arguments[1] in DB_COMMANDS and not names_one:
        return [*arguments, store]
    return arguments


def name_server(environment: MutableMapping[str, str]) -> None:
    """Reach this machine's server, as the admin where accounts are on, unless the caller names another one."""
    if "MLFLOW_TRACKING_URI" not in environment:
        environment["MLFLOW_TRACKING_URI"] = environment["MLFLOW_SERVICE_URL"]
        if key := local_key.read():
            environment["MLFLOW_TRACKING_USERNAME"], environment["MLFLOW_TRACKING_PASSWORD"] = key


def main() -> None:
    """Run the command; exits with its status."""
    os.environ.pop("MLFLOW_CONFIGURE_LOGGING", None)  # off for the service; a person wants the messages
    passphrases.load()
    name_server(os.environ)
    os.environ["MLFLOW_BACKEND_STORE_URI"] = pooler.uri(os.environ["MLFLOW_BACKEND_STORE_URI"])
    with without_gc.in_one_go():
        from mlflow.cli import cli

    cli(with_store(sys.argv[1:], os.environ["MLFLOW_BACKEND_STORE_URI"]), prog_name="mlflow-admin")


if __name__ == "__main__":
    main()
