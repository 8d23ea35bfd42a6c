"""Input that cannot work is refused in one sentence, before anything is touched."""

import subprocess
from collections.abc import Iterator

import machine as machines
import pytest
from fixtures import ROOT, Machine

OLD_LOCK = str(ROOT / "roles/mlflow/files/locks/mlflow-3.16.1.txt")

# Of each kind a few: by Ansible's own check of types, by the settings alone, and by what this machine is. All rules and
# their sentences are proven in plugins/tests/refused.
REFUSED = {
    "port is no number": ({"mlflow_port": "web"}, "'mlflow_port' is of type str and we were unable to convert to int"),
    "unknown log format": ({"mlflow_log_format": "xml"}, "value of mlflow_log_format must be one of: json, text"),
    "text for a list": ({"mlflow_allowed_hosts": "a.b"}, "mlflow_allowed_hosts is text, not a list"),
    "lock of another version": ({"mlflow_requirements_file": OLD_LOCK}, "does not pin mlflow==3.17.2"),
    "several at once": (
        {"mlflow_port": 70000, "mlflow_workers": 65},
        "mlflow_port is 70000",
        "mlflow_workers is 65",
    ),
    "host is a name": ({"mlflow_host": "localhost"}, "because localhost is no IP address"),
    "host of another machine": ({"mlflow_host": "192.0.2.1"}, "because 192.0.2.1 is no address of this machine"),
    "too little memory": ({"mlflow_memory_required_mb": 10**9}, "MiB of memory, MLflow wants 1000000000 MiB"),
    "no such Python": (
        {"mlflow_python": "/usr/bin/python9"},
        "mlflow_python names /usr/bin/python9, which is not there",
    ),
    "no such CA bundle": (
        {"mlflow_ca_bundle": "/no.pem"},
        "mlflow_ca_bundle names /no.pem, which is no file on the machine",
    ),
    "port taken by another program": (
        {"mlflow_port": 5055},
        "because port 5055 is taken by python3 (process",
    ),
    "small disk": (
        {"mlflow_install_dir": "/srv/small/mlflow"},
        "/srv/small/mlflow has 300 MiB free, a release wants 2500 MiB",
    ),
    "program in somebody's folder": (
        {"mlflow_install_dir": "/srv/deploy/mlflow"},
        "mlflow_install_dir can't be there: others than root can write in /srv/deploy",
    ),
    "account that is not root": (
        {"ansible_user": "nobody", "ansible_become": False},
        "MLflow is installed as root: let Ansible become root",
    ),
    "older version": ({"mlflow_version": "3.16.1"}, "has MLflow 3.17.2 and mlflow_version is 3.16.1, which is older"),
}


@pytest.fixture
def obstacles(machine: Machine) -> Iterator[None]:
    """A program that has a port, a small disk, and a folder of somebody's."""
    machine.run("systemd-run --unit=intruder python3 -m http.server 5055")
    machine.run("mkdir -p /srv/small && mount -t tmpfs -o size=300m,mode=755 tmpfs /srv/small")
    machine.run("install --directory --owner=nobody /srv/deploy")
    yield
    machine.run("systemctl stop intruder; umount /srv/small")


def test_refused_before_anything_is_touched(machine, obstacles):
    before = machine.state()
    machine.refuses_each(REFUSED.values())
    assert machine.state() == before
    assert machine.is_healthy()


@pytest.fixture
def other(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A machine beside the one under test, of the Debian and with the first process that the test names."""
    suite, options = request.param
    name = f"mlflow-failure-{suite}-{'bare' if options else 'systemd'}"
    machines.remove(name)
    if options:
        machines.docker("run", "--detach", "--name", name, machines.image(suite), *options)
    else:
        machines.start(name, machines.image(suite))
    yield Machine(name)
    machines.remove(name)


def provision(name: str) -> str:
    """What site.yml says over a machine outside the scenario's inventory; it must fail."""
    done = subprocess.run(
        [
            *("ansible-playbook", "--inventory", f"{name},", "playbooks/site.yml"),
            *("--extra-vars", "ansible_connection=community.docker.docker ansible_user=root target=all"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    return " ".join((done.stdout + done.stderr).split())


@pytest.mark.parametrize("other", [("bullseye", [])], indirect=True)
def test_old_python_is_refused_with_the_setting_that_helps(other):
    said = provision(other.name)
    assert "needs Python 3.10 or later, and Debian GNU/Linux 11 (bullseye) has 3.9" in said
    assert "set mlflow_python to its path" in said
    assert other.host.run("ls /opt/mlflow /etc/mlflow").stdout == ""


@pytest.mark.parametrize("other", [("bookworm", ["sleep", "infinity"])], indirect=True)
def test_machine_without_systemd_is_refused(other):
    assert "This machine does not run systemd" in provision(other.name)
    assert other.host.run("ls /opt/mlflow /etc/mlflow").stdout == ""
