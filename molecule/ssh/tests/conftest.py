"""Clients of the two machines, by TLS through their fronts."""

import os
import ssl
import urllib.request
from pathlib import Path

import pytest
import testinfra.host
from fixtures import Machine

FOLDER = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "ssh"


@pytest.fixture
def machine(host: testinfra.host.Host) -> Machine:
    """Each of them in turn; the front is what its clients reach."""
    front = Machine(host.backend.host)
    front.port = 443
    return front


@pytest.fixture
def full() -> Machine:
    """The one with everything on, whatever machine pytest goes through."""
    front = Machine("mlflow-ssh-trixie")
    front.port = 443
    return front


def url(machine: Machine) -> str:
    return machine.url.replace("http://", "https://")


def ask(machine: Machine, path: str) -> str:
    """The body of an answer to a request over TLS, from the control node."""
    trusted = ssl.create_default_context(cadata=certificate(machine))
    with urllib.request.urlopen(url(machine) + path, context=trusted, timeout=60) as answer:
        return answer.read().decode()


def certificate(machine: Machine) -> str:
    return machine.run("cat /etc/haproxy/certificates/*.pem")
