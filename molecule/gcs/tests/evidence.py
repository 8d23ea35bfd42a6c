"""What the tests of this scenario look at: Google's records, and what must show nowhere."""

import json
from pathlib import Path

from fixtures import Machine, Run
from google_cloud import Google

CLIENTS = Path(__file__).parents[1] / "clients"
EXCHANGE = str(CLIENTS / "exchange_artifacts.py")
BUCKET = "mlflow-artifacts"
FOLDER = "team/tracking"
CREDENTIALS_FILE = "/etc/mlflow/google-credentials.json"


def provision(machine: Machine, folder: Path, settings: dict, *arguments: str) -> Run:
    """Run site.yml with settings that may be secret, and so are in a file."""
    file = folder / "settings.json"
    file.write_text(json.dumps(settings))
    return machine.playbook("--extra-vars", f"@{file}", *arguments)


def secrets_in(credentials: dict) -> list[str]:
    """What nobody but the service may see of a credentials file; of a private key each of its lines."""
    names = ("private_key_id", "refresh_token", "client_secret")
    lines = [line for line in credentials.get("private_key", "").splitlines() if "-----" not in line]
    return [credentials[name] for name in names if name in credentials] + lines


def shown(secrets: list[str], text: str) -> list[str]:
    """The secrets that a text has."""
    return [secret for secret in secrets if secret in text]


def to_storage(google: Google) -> list[dict]:
    return [request for request in google.requests() if request["host"] == "storage.googleapis.com"]


def grants(google: Google) -> set[tuple[str, str]]:
    """How tokens were obtained, and whose they are: the grant's last word, or ``metadata``."""
    found = set()
    for request in google.requests():
        if request.get("grant"):
            found.add((request["grant"].rpartition(":")[2], request["identity"]))
        elif "metadata_flavor" in request and request["path"].endswith("/token"):
            found.add(("metadata", request["identity"]))
    return found
