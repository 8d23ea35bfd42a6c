"""A machine without internet: what it has came from the wheelhouse, and a wheelhouse that lacks something is refused."""

import zipfile
from pathlib import Path

import machine as machines
import pytest
from fixtures import ROOT

WHEELS = ROOT / "build" / "offline" / "wheels"


@pytest.fixture
def wheelhouse(tmp_path: Path) -> Path:
    """A wheelhouse like the machine's, to change something in."""
    for wheel in WHEELS.glob("*.whl"):
        (tmp_path / wheel.name).symlink_to(wheel)
    return tmp_path


def left(machine) -> list[str]:
    """What passes through a machine while a release is built, as far as it is still there."""
    names = r"\( -name '*.whl' -o -name '*.tar' -o -name .build \)"
    return machine.run(f"find /opt/mlflow /tmp /var/tmp /root -path '*/ensurepip/*' -prune -o {names} -print").split()


def test_machine_has_no_way_out(machine):
    """It is on one network, from which Docker lets nothing out."""
    networks = "{{range $name, $network := .NetworkSettings.Networks}}{{$name}} {{end}}"
    assert machines.docker("inspect", "--format", networks, machine.name).split() == ["mlflow-offline"]
    assert machines.docker("network", "inspect", "--format", "{{.Internal}}", "mlflow-offline") == "true"


def test_real_client_logs_and_reads_a_run(machine):
    """By the container's address, because no port of an internal network can be published."""
    address = machines.docker(
        "inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", machine.name
    )
    url = f"http://{address}:{machine.port}"
    logged = machine.client("log_everything.py", url=url)
    assert machine.client("read_run.py", logged["run_id"], logged["experiment"], url=url) == {"status": "FINISHED"}


def test_no_wheel_stays_on_the_machine(machine):
    assert machine.run("/opt/mlflow/current/bin/python -c 'import tomli_w; print(tomli_w.__name__)'") == "tomli_w"
    assert left(machine) == []


@pytest.mark.parametrize("package", ["alembic", "uv", "tomli_w"])
def test_wheelhouse_that_lacks_a_wheel_is_refused(machine, wheelhouse, package):
    """Of the lock, the installer's and the operator's own; on a machine whose release is not built yet."""
    before = machine.state()
    (lacking,) = wheelhouse.glob(f"{package}-*.whl")
    lacking.unlink()
    wanted = ["tomli-w==1.2.0", "tomli-w>=1"]  # another release than the one that is there
    said = machine.refuses(mlflow_wheelhouse=str(wheelhouse), mlflow_extra_packages=wanted)
    assert f"has no wheel of {package.replace('_', '-')}==" in said
    assert "for Python 3.11 on x86_64; where there is internet, run `make wheelhouse PYTHON=3.11 ARCH=x86_64" in said
    assert machine.state() == before


def test_wheel_for_another_machine_does_not_count(machine, wheelhouse):
    before = machine.state()
    (numpy,) = wheelhouse.glob("numpy-*.whl")
    numpy.rename(wheelhouse / numpy.name.replace("x86_64", "aarch64"))
    wanted = ["tomli-w==1.2.0", "tomli-w>=1"]
    assert "has no wheel of numpy==" in machine.refuses(mlflow_wheelhouse=str(wheelhouse), mlflow_extra_packages=wanted)
    assert machine.state() == before


def test_folder_that_is_not_there_is_refused(machine):
    before = machine.state()
    said = machine.refuses(mlflow_wheelhouse="/nowhere")
    assert "mlflow_wheelhouse names /nowhere, which is no folder on the control node" in said
    assert machine.state() == before


def test_changed_wheel_is_not_installed_and_nothing_stays(machine, wheelhouse):
    before = machine.state()
    (alembic,) = wheelhouse.glob("alembic-*.whl")
    original = alembic.read_bytes()
    alembic.unlink()
    alembic.write_bytes(original)
    with zipfile.ZipFile(alembic, "a") as archive:
        archive.writestr("alembic/added.py", "")
    wanted = ["tomli-w==1.2.0", "tomli-w>=1"]
    said = machine.refuses(mlflow_wheelhouse=str(wheelhouse), mlflow_extra_packages=wanted)
    assert "does not have the hash that the lock names" in said
    assert left(machine) == []
    assert machine.state() == before
    assert machine.is_healthy()
