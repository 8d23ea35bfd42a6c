"""A machine without internet: what it has came from the wheelhouse, and a wheelhouse that lacks something is refused."""

import shutil
import zipfile
from pathlib import Path

import machine as machines
from fixtures import ROOT

WHEELS = ROOT / "build" / "offline" / "wheels"
WANTED = ["tomli-w==1.2.0", "tomli-w>=1"]  # another release than the one that is there
MAKE_IT = "for Python 3.11 on x86_64; where there is internet, run `make wheelhouse PYTHON=3.11 ARCH=x86_64"


def wheelhouse(folder: Path, *lacking: str) -> Path:
    """A wheelhouse like the machine's, to change something in, without the wheels of some packages."""
    folder.mkdir()
    for wheel in WHEELS.glob("*.whl"):
        if wheel.name.partition("-")[0] not in lacking:
            (folder / wheel.name).symlink_to(wheel)
    return folder


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


def test_wheelhouse_that_lacks_a_wheel_is_refused(machine, tmp_path):
    """Of the lock, the installer's and the operator's own, or one for this machine; where the release is not built yet."""
    before = machine.state()
    cases = [
        ({"mlflow_wheelhouse": "/nowhere"}, "mlflow_wheelhouse names /nowhere, which is no folder on the control node")
    ]
    for package in ("alembic", "uv", "tomli_w"):
        settings = {"mlflow_wheelhouse": str(wheelhouse(tmp_path / package, package)), "mlflow_extra_packages": WANTED}
        cases.append((settings, f"has no wheel of {package.replace('_', '-')}==", MAKE_IT))
    foreign = wheelhouse(tmp_path / "foreign")
    (numpy,) = foreign.glob("numpy-*.whl")
    numpy.rename(foreign / numpy.name.replace("x86_64", "aarch64"))
    settings = {"mlflow_wheelhouse": str(foreign), "mlflow_extra_packages": WANTED}
    cases.append((settings, "has no wheel of numpy==", MAKE_IT))
    machine.refuses_each(cases)
    assert machine.state() == before


def test_changed_wheel_is_not_installed_and_nothing_stays(machine, tmp_path):
    before = machine.state()
    changed = wheelhouse(tmp_path / "changed", "alembic")
    (original,) = WHEELS.glob("alembic-*.whl")
    alembic = Path(shutil.copy(original, changed))
    with zipfile.ZipFile(alembic, "a") as archive:
        archive.writestr("alembic/added.py", "")
    said = machine.refuses(mlflow_wheelhouse=str(changed), mlflow_extra_packages=WANTED)
    assert "does not have the hash that the lock names" in said
    assert left(machine) == []
    assert machine.state() == before
    assert machine.is_healthy()
