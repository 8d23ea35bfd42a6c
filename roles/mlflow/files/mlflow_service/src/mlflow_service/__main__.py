"""Start MLflow's server behind the socket that systemd holds: ``python -m mlflow_service [OPTIONS]``.

It is the one that ``mlflow server`` starts (launch.py). systemd passes the listening socket as standard
input, so the socket outlives every restart and clients wait instead of being refused. All settings come
from the environment (``MLFLOW_*``, see ``/etc/mlflow/mlflow.env``); OPTIONS are those of ``mlflow server``.
"""

import contextlib
import logging
import os
import sqlite3
import sys

from mlflow_service.accounts import login, passphrases
from mlflow_service.serving import launch, metrics
from mlflow_service.stores import copy_at_start
from mlflow_service.system import acting, logs, runtime, without_gc

APP_NAME = "mlflow-service"  # the entry point in mlflow_service.dist-info, group mlflow.app
APP = "mlflow_service.serving.app:create_app"  # what stands there


def pin_release() -> None:
    """Leave the ``current`` link behind: run from the release that it names now.

    Python imports lazily. A process that went on importing through the link after it was moved
    to another release would run a mix of two releases.
    """
    release = os.path.realpath(sys.prefix)
    if release != sys.prefix:
        python = os.path.join(release, "bin", "python")
        os.execv(python, acting.python("-m", __package__, *sys.argv[1:], interpreter=python))


def uvicorn_options() -> str:
    """The options that uvicorn takes from us; MLflow's own settings do not cover them."""
    graceful = os.environ["MLFLOW_SERVICE_STOP_TIMEOUT_SECONDS"]
    return (
        f"--fd 0 --loop mlflow_service.serving.connections:Loop --http mlflow_service.serving.connections:Connection "
        f"--no-access-log --log-config {logs.CONFIG_FILE} --timeout-graceful-shutdown {graceful} "
        f"--app-dir {logs.CONFIG_FILE.parents[2]}"  # and not the working folder, which the service can write
    )


def let_readers_and_writer_work_at_once(store: str) -> None:
    """Put a SQLite store into WAL mode, in which reading does not wait for writing; it stays in the file.

    Source: https://sqlite.org/wal.html. Any other store is left alone.
    """
    if store.startswith("sqlite:///"):
        with contextlib.closing(sqlite3.connect(store.removeprefix("sqlite:///"), timeout=10)) as database:
            database.execute("PRAGMA journal_mode = WAL")


def main() -> None:
    """Start the server and end with its status when it ends."""
    pin_release()
    logs.configure()
    copy_at_start.take_over()
    let_readers_and_writer_work_at_once(os.environ["MLFLOW_BACKEND_STORE_URI"])
    passphrases.start()
    login.start()
    os.environ.update(metrics.make_folder(os.environ))
    runtime.watch_in_background(int(os.environ["MLFLOW_WORKERS"]))
    options, uvicorn = sys.argv[1:], uvicorn_options()
    status = launch.start(options, APP, uvicorn)
    if status is None:
        status = mlflow_server("--app-name", APP_NAME, "--uvicorn-opts", uvicorn, *options)
    # The server is gone and nothing is left to save, but the interpreter would take another
    # second to take itself apart, in which clients wait.
    logging.shutdown()
    os._exit(status)


def mlflow_server(*options: str) -> int:
    """Run ``mlflow server`` in this process; returns its status."""
    with without_gc.in_one_go():
        from mlflow.cli import cli

    try:
        cli(["server", *options], prog_name="mlflow")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0


if __name__ == "__main__":
    main()
