"""On a machine, as the service's user: what ``mlflow server`` starts and what ours plans (launch.py), compared.

Prints, for each of `CASES`, what differs: nothing, as JSON. The real ``mlflow server`` works through its options and
opens its stores; only where it would start uvicorn, it is asked what it would have started.
"""

import json
import os
import sys

import mlflow.server
from mlflow.cli import cli
from mlflow.version import VERSION
from mlflow_service import __main__ as main
from mlflow_service.serving import launch

STORE = f"sqlite:///{sys.argv[1]}/stock.db"
CASES = {
    "as it is": {},
    "every setting": {
        "MLFLOW_HOST": "127.0.0.1",
        "MLFLOW_PORT": "5999",
        "MLFLOW_WORKERS": "3",
        "MLFLOW_STATIC_PREFIX": "/tracking",
        "MLFLOW_SERVER_X_FRAME_OPTIONS": "DENY",
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": "https://notebooks.example.com",
        "MLFLOW_READ_REPLICA_BACKEND_STORE_URI": f"{STORE}?mode=ro",
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "a key of thirty-two characters, or more",
    },
    "artifacts past the server": {
        "MLFLOW_SERVE_ARTIFACTS": "false",
        "MLFLOW_ARTIFACTS_DESTINATION": "",
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": "/srv/artifacts",
    },
    "nothing that has a default": {"MLFLOW_SERVER_X_FRAME_OPTIONS": "", "MLFLOW_SERVER_ALLOWED_HOSTS": ""},
}
# Random, unknown to 3.16.1, and what a process sets for itself as soon as it opens the stores
LEFT_OUT = {"_MLFLOW_SERVER_BOOT_ID", "_MLFLOW_IN_JOB_EXECUTOR", "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"}


class Asked(Exception):
    """Raised where ``mlflow server`` would start uvicorn."""


def ask(command, extra_env, **_options):
    raise Asked(command, {**os.environ, **extra_env})


def stock() -> tuple[list[str], dict[str, str]]:
    """Command and environment of the uvicorn that ``mlflow server`` starts."""
    options = ["--app-name", main.APP_NAME, "--uvicorn-opts", main.uvicorn_options()]
    try:
        cli(["server", *options], prog_name="mlflow", standalone_mode=False)
    except Asked as asked:
        return asked.args


def differences(settings: dict[str, str]) -> list:
    os.environ.clear()
    os.environ.update({name: value for name, value in settings.items() if value})
    assert launch.is_known(VERSION, os.environ, []), "left to mlflow server"
    planned = launch.plan(os.environ, main.APP, main.uvicorn_options())
    command, environment = stock()
    names = (environment.keys() | planned.environment.keys()) - LEFT_OUT
    pairs = {name: (environment.get(name), planned.environment.get(name)) for name in names}
    found = [[name, *pair] for name, pair in pairs.items() if pair[0] != pair[1]]
    unsafe = [planned.command[0], *planned.command[1 + len(launch.SAFE_PATH) :]]
    return found if command == unsafe else [*found, ["command", command, planned.command]]


mlflow.server._exec_cmd = ask
given = {**os.environ, "MLFLOW_BACKEND_STORE_URI": STORE}
print(json.dumps({name: differences({**given, **settings}) for name, settings in CASES.items()}))
