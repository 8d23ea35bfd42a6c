"""What ``mlflow server`` starts, started without it.

``mlflow server`` imports all of MLflow to work out uvicorn's command line and the variables that its
workers read, and stays beside them for as long as they live: half of the time of a start, in which
clients wait, and some 240 MB. `plan` works out the same from the settings. It does so for releases
where tests have found that it is the same; what it does not know is left to ``mlflow server``.
"""

import importlib.metadata
import os
import shlex
import signal
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

RELEASES = {"3.16.1", "3.17.0", "3.17.2"}  # of MLflow, that start what `plan` says: molecule/shared/stock.py compares

# Variables with which `plan` is right: it translates them, or only workers read them.
TRANSLATED = {
    "MLFLOW_HOST",
    "MLFLOW_PORT",
    "MLFLOW_WORKERS",
    "MLFLOW_STATIC_PREFIX",
    "MLFLOW_BACKEND_STORE_URI",
    "MLFLOW_READ_REPLICA_BACKEND_STORE_URI",
    "MLFLOW_SERVE_ARTIFACTS",
    "MLFLOW_ARTIFACTS_DESTINATION",
    "MLFLOW_DEFAULT_ARTIFACT_ROOT",
    "MLFLOW_SERVER_X_FRAME_OPTIONS",
}
READ_BY_WORKERS = {
    "_MLFLOW_AUTH_ADMIN_BOOTSTRAPPED",
    "_MLFLOW_INTERNAL_GATEWAY_AUTH_TOKEN",
    "MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT",
    "MLFLOW_AUTH_CONFIG_PATH",
    "MLFLOW_BASIC_AUTH_FAIL_CLOSED",
    "MLFLOW_CONFIGURE_LOGGING",
    "MLFLOW_CRYPTO_KEK_PASSPHRASE",
    "MLFLOW_DISABLE_TELEMETRY",
    "MLFLOW_FLASK_SERVER_SECRET_KEY",
    "MLFLOW_GCS_DOWNLOAD_CHUNK_SIZE",
    "MLFLOW_GCS_UPLOAD_CHUNK_SIZE",
    "MLFLOW_LOGGING_LEVEL",
    "MLFLOW_SERVER_ALLOWED_HOSTS",
    "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION",
    "MLFLOW_SERVER_JOB_ENABLE_PERIODIC_TASKS",
    "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW",
    "MLFLOW_SQLALCHEMYSTORE_POOL_RECYCLE",
    "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE",
}
OURS = "MLFLOW_SERVICE_"
# Workers import nothing from their working folder, and PYTHON* variables of mlflow_environment are for them.
SAFE_PATH = ["-P"] if sys.version_info >= (3, 11) else ["-I"]


@dataclass
class Plan:
    """What is to be started.

    Attributes:
        command: of uvicorn.
        environment: all variables that it has.
    """

    command: list[str]
    environment: dict[str, str]

    def run(self) -> int:
        """Start it, pass on what systemd sends, and return a status when it has ended: 0 where it was told to."""
        process = subprocess.Popen(self.command, env=self.environment)
        told = []

        def pass_on(number: int, _frame: Any) -> None:
            told.append(number)
            process.send_signal(number)  # which does nothing where it has ended

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, pass_on)
        return 1 if process.wait() and not told else 0


def is_known(release: str, environment: Mapping[str, str], options: Sequence[str]) -> bool:
    """Whether `plan` is right for a release of MLflow and these settings."""
    names = {name for name in environment if name.startswith(("MLFLOW_", "_MLFLOW_")) and not name.startswith(OURS)}
    return (
        release in RELEASES
        and not options
        and names <= TRANSLATED | READ_BY_WORKERS
        and environment.get("MLFLOW_SERVER_ENABLE_JOB_EXECUTION") != "true"  # the job runner is a child of its own
        and environment.get("MLFLOW_DISABLE_TELEMETRY") == "true"  # which has an event for the start
    )


def plan(environment: Mapping[str, str], app: str, uvicorn_options: str) -> Plan:
    """What ``mlflow server`` would start.

    Args:
        environment: that it would have.
        app: the factory of the application, ``module:function``.
        uvicorn_options: the value of ``--uvicorn-opts``.
    """
    store = environment["MLFLOW_BACKEND_STORE_URI"]
    proxied = environment["MLFLOW_SERVE_ARTIFACTS"] == "true"
    given = {
        "MLFLOW_ENABLE_WORKSPACES": "false",
        "MLFLOW_SERVER_SECRETS_CACHE_TTL": "60",
        "MLFLOW_SERVER_SECRETS_CACHE_MAX_SIZE": "1000",
        "MLFLOW_SERVER_X_FRAME_OPTIONS": environment.get("MLFLOW_SERVER_X_FRAME_OPTIONS", "SAMEORIGIN"),
        "_MLFLOW_SERVER_FILE_STORE": store,
        "_MLFLOW_SERVER_REGISTRY_STORE": store,
        "_MLFLOW_SERVER_READ_REPLICA_BACKEND_STORE": environment.get("MLFLOW_READ_REPLICA_BACKEND_STORE_URI", ""),
        "_MLFLOW_SERVER_ARTIFACT_ROOT": environment.get("MLFLOW_DEFAULT_ARTIFACT_ROOT", "mlflow-artifacts:/"),
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true" if proxied else "",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": environment.get("MLFLOW_ARTIFACTS_DESTINATION", "./mlartifacts"),
        "_MLFLOW_STATIC_PREFIX": environment.get("MLFLOW_STATIC_PREFIX", ""),
        "_MLFLOW_SERVER_BOOT_ID": uuid.uuid4().hex,
        "_MLFLOW_IN_JOB_EXECUTOR": "false",
        "_MLFLOW_SGI_NAME": "uvicorn",
    }
    command = [sys.executable, *SAFE_PATH, "-m", "uvicorn", *shlex.split(uvicorn_options)]
    for option in ("host", "port", "workers"):
        command += [f"--{option}", environment[f"MLFLOW_{option.upper()}"]]
    variables = {**environment, **{name: value for name, value in given.items() if value}}
    return Plan([*command, "--factory", app], variables)


def start(options: Sequence[str], app: str, uvicorn_options: str) -> int | None:
    """Run the server and return its status; None where that is left to ``mlflow server``."""
    if not is_known(importlib.metadata.version("mlflow"), os.environ, options):
        return None
    return plan(os.environ, app, uvicorn_options).run()
