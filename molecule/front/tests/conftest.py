"""The front of the machine under test, the machine beside it, and certificates of a CA that is thrown away."""

import base64
import datetime
import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme
from fixtures import Machine

NAME = "mlflow.test"
BESIDE = "mlflow-front-browser"
CERTIFICATES = Path(os.environ["CERTIFICATES"])
ADMIN = "admin"


@dataclass
class Answer:
    """What curl got."""

    status: int
    head: str
    body: str


class Beside(Machine):
    """The machine beside the front: clients there reach it by its name and trust what is in /srv/ca.pem."""

    def __init__(self, authorization: str) -> None:
        super().__init__(BESIDE)
        self.port = 443
        self.authorization = authorization

    def curl(self, *options: str, path: str = "/health", scheme: str = "https", name: str = NAME) -> Answer:
        """One request, with the right credentials."""
        head = ["curl", "--silent", "--max-time", "60", "--cacert", "/srv/ca.pem", "--dump-header", "/tmp/head"]
        command = [
            *head,
            "--write-out",
            r"\n%{http_code}",
            "--header",
            f"Authorization: {self.authorization}",
            *options,
        ]
        done = self.host.run(" ".join(["%s"] * (len(command) + 1)), *command, f"{scheme}://{name}{path}")
        body, _, status = done.stdout.rpartition("\n")
        return Answer(int(status or 0), self.host.run("cat /tmp/head").stdout.lower(), body)

    def fingerprint(self) -> str:
        """Of the certificate that the front serves now."""
        shown = self.run(
            f"openssl s_client -connect {NAME}:443 -servername {NAME} </dev/null 2>/dev/null"
            " | openssl x509 -noout -fingerprint -sha256"
        )
        return shown.partition("=")[2].strip()

    def trust(self, *pems: str) -> None:
        self.host.check_output("printf %%s %s > /srv/ca.pem", "\n".join(pems))


@pytest.fixture(scope="session")
def ca() -> trustme.CA:
    CERTIFICATES.mkdir(parents=True, exist_ok=True)
    return trustme.CA()


@pytest.fixture
def issue(ca: trustme.CA):
    """Write a certificate of the CA and its key to files; returns the settings that name them."""

    def issue(label: str, *names: str, ends: datetime.datetime | None = None) -> dict[str, str]:
        made = ca.issue_cert(*names, not_after=ends, not_before=ends and ends - datetime.timedelta(days=9))
        paths = CERTIFICATES / f"{label}.pem", CERTIFICATES / f"{label}.key"
        paths[0].write_bytes(made.cert_chain_pems[0].bytes())
        paths[1].write_bytes(made.private_key_pem.bytes())
        return {"haproxy_certificate_file": str(paths[0]), "haproxy_key_file": str(paths[1])}

    return issue


@pytest.fixture
def front(host) -> Machine:
    """The machine under test, whatever machine pytest goes through."""
    return Machine("mlflow-front")


@pytest.fixture
def beside(front: Machine, ca: trustme.CA) -> Beside:
    password = front.run("cat /etc/mlflow/secrets/admin-password").strip()
    beside = Beside("Basic " + base64.b64encode(f"{ADMIN}:{password}".encode()).decode())
    beside.trust(own_certificate(front), ca.cert_pem.bytes().decode())
    beside.host.check_output("printf %%s %s > /srv/authorization", beside.authorization)
    return beside


@pytest.fixture
def client(front: Machine, beside: Beside, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Run a script with a real MLflow client on the control node, over TLS and with the admin's password."""
    trusted = tmp_path / "ca.pem"
    trusted.write_text(beside.run("cat /srv/ca.pem"))
    user, _, password = base64.b64decode(beside.authorization.split()[1]).decode().partition(":")
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(trusted))
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    published = Machine("mlflow-front")
    published.port = 443
    return lambda script, *arguments: front.client(script, *arguments, url=published.url.replace("http://", "https://"))


def own_certificate(front: Machine) -> str:
    """The certificate in use."""
    return front.run("cat /etc/haproxy/certificates/*.pem")


def lines(front: Machine, unit: str) -> list[dict]:
    """What a unit logged in JSON lines."""
    said = front.run(f"journalctl --unit={unit} --output=cat --no-pager").splitlines()
    return [json.loads(line) for line in said if line.startswith("{")]
