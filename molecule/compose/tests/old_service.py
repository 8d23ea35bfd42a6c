"""The `.env` files that the old service may have had, with the keys of a Google of this run.

    python old_service.py MACHINE FOLDER

writes ``fields/.env`` and ``references/.env`` into the folder, as they come from a Windows editor, and the
key file that the second one names. No key is in the repository: env/ has the names of its
fields, between ``@``.
"""

import json
import os
import re
import sys
from pathlib import Path

from google_cloud import Google

SOURCES = Path(__file__).resolve().parents[1] / "env"
SECRET_PART = "Xq7vKd2m"  # of the database's password; it stays as it is in every notation
NAMES = [
    "MLFLOW_TRACKING_PORT",
    "MLFLOW_HOST",
    "MLFLOW_BUCKET_LOCATION",
    "MLFLOW_FOLDER_LOCATION",
    "MLFLOW_POSTGRES_CONNECTION_STRING",
    "POSTGRES_HOST",
    "POSTGRES_PORT",
    "POSTGRES_DB",
    "POSTGRES_USER",
    "POSTGRES_PASSWORD",
    "GCP_PROJECT",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GOOGLE_APPLICATION_CREDENTIALS_TYPE",
    "GOOGLE_APPLICATION_CREDENTIALS_PROJECT_ID",
    "GOOGLE_APPLICATION_CREDENTIALS_PRIVATE_KEY_ID",
    "GOOGLE_APPLICATION_CREDENTIALS_PRIVATE_KEY",
    "GOOGLE_APPLICATION_CREDENTIALS_CLIENT_EMAIL",
    "GOOGLE_APPLICATION_CREDENTIALS_CLIENT_ID",
    "GOOGLE_APPLICATION_CREDENTIALS_AUTH_URI",
    "GOOGLE_APPLICATION_CREDENTIALS_TOKEN_URI",
    "GOOGLE_APPLICATION_CREDENTIALS_AUTH_PROVIDER_X509_CERT_URL",
    "GOOGLE_APPLICATION_CREDENTIALS_CLIENT_X509_CERT_URL",
]


def write(path: Path, key: dict[str, str]) -> None:
    """Write a `.env`: the file of env/ with the same name as the folder, and the fields of a key."""
    text = (SOURCES / f"{path.parent.name}.env").read_text()
    text = re.sub(r"@(\w+)@", lambda found: key[found[1]].replace("\n", "\\n"), text)
    path.write_bytes(text.replace("\n", "\r\n").encode())


def key_of(dotenv: Path) -> dict[str, str]:
    """The service account's key that a `.env` has, or names."""
    return json.loads((dotenv.parent / "secrets" / "key.json").read_text())


def secrets_of(dotenv: Path) -> list[str]:
    """What nobody but the service may see of a `.env`; of the private key each of its lines."""
    key = key_of(dotenv)
    lines = [line for line in key["private_key"].splitlines() if "-----" not in line]
    return [SECRET_PART, key["private_key_id"], *lines]


def main(machine: str, folder: Path) -> None:
    os.umask(0o077)
    google = Google(machine)
    for name in ("fields", "references"):
        key = google.service_account(name)
        (folder / name / "secrets").mkdir(parents=True, exist_ok=True)
        (folder / name / "secrets" / "key.json").write_text(json.dumps(key))
        write(folder / name / ".env", key)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
