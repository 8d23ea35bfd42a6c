"""Runs of the playbook that removes, and what there is of MLflow on a machine."""

import json
from collections.abc import Callable

import pytest
from fixtures import Machine, Run

PLACES = "/opt /etc /usr/local /var/lib /var/backups /srv /run/systemd"


@pytest.fixture
def uninstall(machine: Machine) -> Callable[..., Run]:
    """A function that runs uninstall.yml with settings over the machine."""

    def run(*arguments: str, **settings: object) -> Run:
        return machine.playbook(*arguments, "--extra-vars", json.dumps(settings), playbook="playbooks/uninstall.yml")

    return run


@pytest.fixture
def remains(machine: Machine) -> Callable[[], list[str]]:
    """A function that lists what names MLflow: topmost files and folders, loaded units, accounts, processes."""

    def look() -> list[str]:
        files = machine.run(f"find {PLACES} -xdev -name '*mlflow*' -prune -print").split()
        units = machine.run("systemctl list-units --all --plain --no-legend 'mlflow*' | cut -d' ' -f1").split()
        accounts = machine.run("getent passwd; getent group").splitlines()
        processes = machine.host.run("pgrep --full mlflow_service").stdout.split()
        return [*sorted(files), *units, *(line for line in accounts if line.startswith("mlflow:")), *processes]

    return look
