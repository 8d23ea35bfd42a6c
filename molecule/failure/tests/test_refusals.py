"""Input that cannot work is refused in one sentence, before anything is touched."""

import subprocess
from collections.abc import Iterator

import machine as machines
import pytest
from fixtures import ROOT, Machine

OLD_LOCK = str(ROOT / "roles/mlflow/files/locks/mlflow-3.16.1.txt")

REFUSED = {
    "unknown version": ({"mlflow_version": "9.9.9"}, "mlflow_version is 9.9.9, for which the role has no lock"),
    "no such requirement file": ({"mlflow_requirements_file": "/nowhere.txt"}, "names /nowhere.txt, which is no file"),
    "lock of another version": ({"mlflow_requirements_file": OLD_LOCK}, "does not pin mlflow==3.17.2"),
    "port too high": ({"mlflow_port": 70000}, "mlflow_port is 70000; a TCP port is a number from 1 to 65535"),
    "port is no number": ({"mlflow_port": "web"}, "'mlflow_port' is of type str and we were unable to convert to int"),
    "host is a name": ({"mlflow_host": "localhost"}, "because localhost is no IP address"),
    "host of another machine": ({"mlflow_host": "192.0.2.1"}, "because 192.0.2.1 is no address of this machine"),
    "too many workers": ({"mlflow_workers": 65}, "mlflow_workers is 65; take 1 to 64, or 0"),
    "no overflow": ({"mlflow_database_pool_overflow": 0}, "mlflow_database_pool_overflow must be at least 1"),
    "too many at once": ({"mlflow_database_requests": 41}, "mlflow_database_requests is 41; take 1 to 40"),
    "no release kept": ({"mlflow_releases_keep": 0}, "mlflow_releases_keep is 0"),
    "no time to start": ({"mlflow_start_timeout_seconds": 1}, "mlflow_start_timeout_seconds must be at least 10"),
    "prefix without slash": (
        {"mlflow_static_prefix": "mlflow"},
        "mlflow_static_prefix is mlflow; it begins with a slash",
    ),
    "host with scheme": (
        {"mlflow_allowed_hosts": ["http://a.b"]},
        "mlflow_allowed_hosts has http://a.b; an entry is a host",
    ),
    "text for a list": ({"mlflow_allowed_hosts": "a.b"}, "mlflow_allowed_hosts is text, not a list"),
    "origin without scheme": (
        {"mlflow_cors_allowed_origins": ["a.b"]},
        "mlflow_cors_allowed_origins has a.b; an origin",
    ),
    "unknown log format": ({"mlflow_log_format": "xml"}, "value of mlflow_log_format must be one of: json, text"),
    "option of a setting": (
        {"mlflow_server_options": ["--port=1"]},
        "mlflow_server_options has --port; use mlflow_port",
    ),
    "variable of a setting": (
        {"mlflow_environment": {"MLFLOW_PORT": "1"}},
        "mlflow_environment has MLFLOW_PORT, which",
    ),
    "no variable name": ({"mlflow_environment": {"A B": "1"}}, "mlflow_environment has A B; the name of a variable"),
    "relative folder": ({"mlflow_data_dir": "data"}, "must be absolute paths"),
    "same folder twice": ({"mlflow_data_dir": "/opt/mlflow"}, "must be three different folders"),
    "folder that is hidden": ({"mlflow_data_dir": "/home/mlflow"}, "the service can't see /home, /root and /run/user"),
    "too little memory": ({"mlflow_memory_required_mb": 10**9}, "MiB of memory, MLflow wants 1000000000 MiB"),
    "no such Python": (
        {"mlflow_python": "/usr/bin/python9"},
        "mlflow_python names /usr/bin/python9, which is not there",
    ),
    "no such CA bundle": (
        {"mlflow_ca_bundle": "/no.pem"},
        "mlflow_ca_bundle names /no.pem, which is no file on the machine",
    ),
    "index is a name": ({"mlflow_pip_index": "pypi"}, "mlflow_pip_index is no address of a package index"),
    "proxy is a name": ({"mlflow_apt_proxy": "proxy:3128"}, "mlflow_apt_proxy is no address of an HTTP proxy"),
    "mount is no path": (
        {"mlflow_required_mounts": ["srv"]},
        "mlflow_required_mounts must have absolute paths without a slash at the end",
    ),
    "published password": (
        {"mlflow_environment": {"TOKEN": "published-example-token"}},
        "mlflow_environment has a password of the example in inventories/onprem",
    ),
    "several at once": (
        {"mlflow_port": 70000, "mlflow_workers": 65},
        "mlflow_port is 70000",
        "mlflow_workers is 65",
    ),
    "port taken by another program": (
        {"mlflow_port": 5055},
        "because port 5055 is taken by python3 (process",
    ),
    "small disk": (
        {"mlflow_install_dir": "/srv/small/mlflow"},
        "/srv/small/mlflow has 300 MiB free, a release wants 2500 MiB",
    ),
    "no body at all": ({"mlflow_max_body_mb": 0}, "mlflow_max_body_mb is 0"),
    "memory without a unit": ({"mlflow_memory_max": "2000"}, "mlflow_memory_max"),
    "more than all memory": ({"mlflow_memory_high": "101%"}, "mlflow_memory_high"),
    "no tasks": ({"mlflow_tasks_max": 1}, "mlflow_tasks_max is 1"),
    "unkillable": ({"mlflow_oom_score_adjust": -2000}, "mlflow_oom_score_adjust is -2000"),
    "program in the data": (
        {"mlflow_install_dir": "/var/lib/mlflow/app"},
        "/var/lib/mlflow/app is in a folder that the service can write",
    ),
    "settings in the artifacts": (
        {"mlflow_config_dir": "/srv/files/etc", "mlflow_artifacts_location": "/srv/files"},
        "/srv/files/etc is in a folder that the service can write",
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
