"""`ansible-playbook -i inventories/local playbooks/site.yml`, typed on the machine itself."""

import re

import pytest

PROVISION = (
    "ansible-playbook -i inventories/local playbooks/site.yml -e @molecule/shared/vars/cache.yml -e mlflow_workers=1"
)
COPY = "tar -C /src --exclude=./.venv --exclude=./build --exclude=./.git -cf - . | tar -C /project -xf -"


@pytest.fixture
def clone(machine):
    """The folder of a clone on the machine, with the control node's tools, owned by an ordinary user."""
    if machine.host.run("test -e /project/.venv/.made").rc != 0:
        machine.run("apt-get update && apt-get install --yes --no-install-recommends sudo")
        machine.run("useradd --create-home ann && echo 'ann ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/ann")
        machine.run(f"mkdir -p /project && {COPY}")
        machine.run("cd /project && UV_CACHE_DIR=/var/cache/mlflow-machine/uv python3 molecule/shared/machine.py tools")
        machine.run("chown -R ann /project")
    return "/project"


def provision(machine, clone, become=""):
    return machine.run(f"cd {clone} && {become} env PATH={clone}/.venv/bin:$PATH LC_ALL=C.UTF-8 {PROVISION}")


def changed(output):
    return int(re.search(r"changed=(\d+)", output)[1])


def test_root_provisions_the_machine_it_sits_at(machine, clone):
    assert changed(provision(machine, clone)) > 0
    assert machine.is_healthy()
    machine.run("grep --quiet 'MLFLOW_WORKERS=\"1\"' /etc/mlflow/mlflow.env")


def test_ordinary_user_does_the_same_by_sudo_and_changes_nothing(machine, clone):
    said = provision(machine, clone, become="setpriv --reuid=ann --regid=ann --init-groups env HOME=/home/ann")
    assert changed(said) == 0
    assert "export MLFLOW_TRACKING_URI=http://127.0.0.1:5001" in said
