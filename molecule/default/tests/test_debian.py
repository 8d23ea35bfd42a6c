"""What of a provisioned machine depends on Debian's version. The scenario failure runs it on Debian 12."""

import re

import pytest


def test_server_passes_its_own_check(machine):
    assert machine.is_healthy()


@pytest.mark.parametrize("unit", ["mlflow.socket", "mlflow.service"])
def test_units_run_now_and_after_a_boot(machine, unit):
    assert machine.host.service(unit).is_running
    assert machine.host.service(unit).is_enabled


def test_machine_has_no_failed_unit(machine):
    assert machine.run("systemctl --failed --plain --no-legend") == ""


def test_all_that_the_server_imports_is_compiled(machine):
    code = """
import os, sys
import mlflow.server.fastapi_app, mlflow.store.tracking.sqlalchemy_store, mlflow_service.serving.app
cached = {name: getattr(module, "__cached__", None) for name, module in sys.modules.items()}
own = {name: path for name, path in cached.items() if path and path.startswith(sys.prefix)}
print(len(own) > 500, [name for name, path in own.items() if not os.path.exists(path)])
"""
    assert machine.host.check_output("/opt/mlflow/current/bin/python -BIc %s", code).splitlines()[-1] == "True []"


def test_nothing_of_mlflow_is_imported_but_in_the_workers(machine):
    """Where nobody asks for what only `mlflow server` can do, it would stay there with all of MLflow in its memory."""
    resident = machine.run(f"awk '/^VmRSS/ {{print $2}}' /proc/{machine.main_pid()}/status")
    assert int(resident) < 100_000  # KiB


@pytest.mark.parametrize(
    "folder", ["/opt/mlflow", "/opt/mlflow/current", "/opt/mlflow/releases", "/etc/mlflow", "/etc"]
)
def test_service_account_cannot_write_outside_its_data(machine, folder):
    assert machine.host.run(f"setpriv --reuid=mlflow --regid=mlflow --clear-groups touch {folder}/intruder").rc != 0


@pytest.mark.parametrize("folder, writable", [("/usr", False), ("/etc/mlflow", False), ("/var/lib/mlflow", True)])
def test_sandbox_lets_even_root_write_only_to_the_data(machine, folder, writable):
    inside = f"nsenter --target {machine.main_pid()} --mount"
    assert (machine.host.run(f"{inside} touch {folder}/intruder").rc == 0) is writable
    machine.run(f"{inside} rm -f /var/lib/mlflow/intruder")


def test_systemd_rates_the_sandbox_at_most_1_2(machine):
    rating = machine.run("systemd-analyze security mlflow.service --no-pager").splitlines()[-1]
    assert float(re.search(r"([\d.]+) OK", rating)[1]) <= 1.2, rating


def test_settings_are_readable_by_the_service_alone(machine):
    assert machine.host.file("/etc/mlflow/mlflow.env").mode == 0o640
    assert machine.host.file("/etc/mlflow/mlflow.env").group == "mlflow"
