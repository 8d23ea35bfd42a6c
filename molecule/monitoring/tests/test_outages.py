"""What happens when something fails: what is told, what heals itself, and what is left alone."""

import signal
import subprocess
from pathlib import Path

import pytest
from fixtures import wait_until

pytestmark = pytest.mark.usefixtures("quiet")
STARTS = "systemctl show --property NRestarts,ActiveEnterTimestampMonotonic,InvocationID mlflow.service"


def check_said(machine, sentence):
    return sentence in machine.run("journalctl -t mlflow-check -o cat")


def ready(machine):
    """Status of /health/ready, asked from the machine."""
    code = """
import urllib.request, urllib.error
try:
    print(urllib.request.urlopen("http://127.0.0.1:5001/health/ready", timeout=30).status)
except urllib.error.HTTPError as error:
    print(error.code)
"""
    return int(machine.host.check_output("python3 -c %s", code))


def test_database_that_is_down_is_told_and_the_server_left_alone(machine, prometheus):
    before, workers = machine.run(STARTS), machine.workers()
    assert ready(machine) == 200
    machine.run("systemctl stop postgresql@15-main.service")
    try:
        wait_until(lambda: {"PostgresDown", "MlflowCheckFails"} <= prometheus.firing(), 240, "the alerts fire")
        assert "MlflowDown" not in prometheus.firing()
        assert ready(machine) == 503
        # Longer than it takes to restart what hangs.
        failures = "journalctl -t mlflow-check -o cat | grep -c 'database: '"
        wait_until(lambda: int(machine.host.run(failures).stdout or 0) >= 4, 240, "four checks have failed")
    finally:
        machine.run("systemctl start postgresql@15-main.service")
    wait_until(lambda: ready(machine) == 200, 240, "the server is back")
    wait_until(lambda: not prometheus.firing() & {"PostgresDown", "MlflowCheckFails"}, 240, "the alerts end")
    assert machine.run(STARTS) == before
    assert machine.workers() == workers


def test_database_that_hangs_is_told_and_the_server_left_alone(machine):
    before, workers = machine.run(STARTS), machine.workers()
    machine.run("systemctl kill --signal=SIGSTOP postgresql@15-main.service")
    try:
        assert ready(machine) == 503
        seen = "journalctl -t mlflow-check -o cat | grep -c 'database: POST .* got no answer'"
        wait_until(lambda: int(machine.host.run(seen).stdout or 0) >= 3, 240, "three checks have got no answer")
    finally:
        machine.run("systemctl kill --signal=SIGCONT postgresql@15-main.service")
    wait_until(lambda: ready(machine) == 200, 240, "the server is back")
    assert machine.run(STARTS) == before
    assert machine.workers() == workers


def test_worker_that_is_stopped_is_replaced(machine):
    before, stopped = machine.run(STARTS), machine.workers()[0]
    machine.run(f"kill -{signal.SIGSTOP} {stopped}")
    wait_until(
        lambda: stopped not in machine.workers() and len(machine.workers()) == machine.wanted_workers,
        240,
        "it is replaced",
    )
    assert machine.run(STARTS) == before
    wait_until(machine.is_healthy, 240, "the server works")


def test_worker_whose_event_loop_is_blocked_is_killed_alone(machine, prometheus):
    before, (blocked, *others) = machine.run(STARTS), machine.workers()
    script = Path(__file__).with_name("block_thread.py")
    subprocess.run(["docker", "cp", str(script), f"{machine.name}:/root/block_thread.py"], check=True)
    with subprocess.Popen(["docker", "exec", machine.name, "python3", "/root/block_thread.py", str(blocked)]) as tracer:
        wait_until(lambda: blocked not in machine.workers(), 240, "it is killed")
        tracer.wait()
    wait_until(lambda: check_said(machine, f"killed worker {blocked}, which is replaced"), 60, "the check says so")
    wait_until(lambda: len(machine.workers()) == machine.wanted_workers, 240, "it is replaced")
    assert set(others) <= set(machine.workers())
    assert machine.run(STARTS) == before
    wait_until(lambda: "MlflowWorkerHung" in prometheus.firing(), 240, "the alert fires")


def test_server_that_hangs_as_a_whole_is_started_again(machine):
    before = machine.main_pid()
    machine.run("systemctl kill --signal=SIGSTOP mlflow.service")
    wait_until(lambda: machine.main_pid() not in (0, before), 240, "it is started again")
    wait_until(machine.is_healthy, 240, "the server works")
    wait_until(lambda: check_said(machine, "killed the service, which systemd starts again"), 60, "the check says so")


def test_server_that_an_operator_has_stopped_stays_so(machine):
    machine.run("systemctl stop prometheus.service mlflow.socket mlflow.service")
    machine.run("systemctl start mlflow-check.service")
    assert check_said(machine, "mlflow.service is inactive")
    assert machine.run("systemctl show --property ActiveState --value mlflow.service") == "inactive"
    machine.run("systemctl start mlflow.socket mlflow.service prometheus.service")
