"""mlflow_service/serving/launch.py: which starts are left to ``mlflow server``, and how a server is told to stop.

That it starts what ``mlflow server`` starts is a test of the scenarios default and upgrade, which have MLflow.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow_service.serving import launch
from mlflow_service.system import runtime

ROLE = Path(__file__).resolve().parents[2] / "roles" / "mlflow"
SETTINGS = {
    "MLFLOW_BACKEND_STORE_URI": "sqlite:////var/lib/mlflow/mlflow.db",
    "MLFLOW_SERVICE_URL": "http://127.0.0.1:5001",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PGHOST": "database",
    "UVICORN_BACKLOG": "100",
}
WAITS = "import signal, sys; print('up', flush=True); signal.pause()"


def test_every_release_that_has_a_lock_was_compared():
    locks = {path.stem.removeprefix("mlflow-") for path in (ROLE / "files" / "locks").glob("mlflow-*.txt")}
    assert locks == launch.RELEASES


@pytest.mark.parametrize(
    ("release", "more", "options", "known"),
    [
        ("3.17.2", {}, [], True),
        ("3.18.0", {}, [], False),
        ("3.17.2", {}, ["--disable-security-middleware"], False),
        ("3.17.2", {"MLFLOW_EXPOSE_PROMETHEUS": "/srv/metrics"}, [], False),
        ("3.17.2", {"_MLFLOW_SERVER_ARTIFACTS_ONLY": "true"}, [], False),
        ("3.17.2", {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "true"}, [], False),
        ("3.17.2", {"MLFLOW_DISABLE_TELEMETRY": "false"}, [], False),
    ],
)
def test_what_is_not_known_is_left_to_mlflow_server(release, more, options, known):
    assert launch.is_known(release, SETTINGS | more, options) is known


def parent_of(program):
    """A process that runs a Python program as a server."""
    code = "import os, sys; from mlflow_service.serving.launch import Plan; sys.exit(Plan(sys.argv[1:], dict(os.environ)).run())"
    environment = {**os.environ, "PYTHONPATH": str(ROLE / "files" / "mlflow_service" / "src")}
    command = [sys.executable, "-c", code, sys.executable, "-c", program]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def test_server_that_is_told_to_stop_ends_well():
    with parent_of(WAITS) as parent:
        assert parent.stdout.readline() == "up\n"
        parent.terminate()
        assert parent.wait(30) == 0


@pytest.mark.parametrize("end", ["sys.exit(3)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_server_that_ends_by_itself_has_failed(end):
    with parent_of(f"import os, signal, sys; {end}") as parent:
        assert parent.wait(30) == 1


def test_worker_that_gives_up_ends_the_service(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    runtime.give_up()
    environment = {**os.environ, "PYTHONPATH": str(ROLE / "files" / "mlflow_service" / "src")}
    program = "from mlflow_service.system import runtime; runtime.watch(workers=1)"
    assert subprocess.run([sys.executable, "-c", program], env=environment).returncode == -signal.SIGTERM
    assert not runtime.was_ready()
