"""A `.env` that can't be used is refused in one sentence, which has nothing of the file in it."""

import re
from pathlib import Path

from conftest import SERVICES, Service
from old_service import secrets_of

HUSH = "hushhush"  # what is put into the broken lines
BROKEN = " is not NAME=value, or a quote in it is not closed"

# What is added to the old service's .env, and what is said then; `line +1` is the first one of what is added.
REFUSED = {
    "line that is none": (f"\r\n{HUSH} {HUSH}\r\nA=1", f"line +2{BROKEN}"),
    "key without its quotes": (f"{HUSH}/+==\r\n", f"line +1{BROKEN}"),
    "quote that is not closed": (f"POSTGRES_PASSWORD='{HUSH}\r\nA=1\r\n", f"line +1{BROKEN}"),
    "variable that nothing sets": (
        f"POSTGRES_PASSWORD=a${{{HUSH}}}",
        "line +1 has a ${…} that no line before it sets; a $ of the value itself needs single quotes",
    ),
    "port that is a name": (f"MLFLOW_TRACKING_PORT={HUSH}", "MLFLOW_TRACKING_PORT is no port number (1 to 65535)"),
    "port that is too high": ("POSTGRES_PORT=54320000", "POSTGRES_PORT is no port number (1 to 65535)"),
    "host that is none": ("MLFLOW_HOST=http://", "MLFLOW_HOST is neither an address nor a host name"),
    "bytes that are no text": (b"GCP_PROJECT=\xff\xfe", "it is not UTF-8"),
    "database of another kind": (
        f"MLFLOW_POSTGRES_CONNECTION_STRING=mysql://u:{HUSH}@h/d",
        "mlflow_postgres_connection_string is no connection string for PostgreSQL; it has the form",
    ),
    "half a key": (
        "GOOGLE_APPLICATION_CREDENTIALS_CLIENT_EMAIL=",
        "mlflow_gcp_auth is key_fields, so mlflow_gcp_key_client_email must be set",
    ),
    "key file that only the container had": (
        "GOOGLE_APPLICATION_CREDENTIALS_PRIVATE_KEY=",
        "mlflow_gcp_key_file names /app/key.json, which is a file neither on the control node nor on the machine",
    ),
    "wrong password": (f"POSTGRES_PASSWORD='{HUSH}'", "it does not accept the password for user mlflow_app"),
}


def test_refused_before_anything_is_touched(machine: Service, tmp_path: Path) -> None:
    before = machine.state()
    old = SERVICES / "fields" / ".env"
    lines = old.read_bytes().count(b"\n")
    gone = f"{tmp_path}/gone.env"
    cases = [
        ({"mlflow_dotenv": gone}, f"mlflow_dotenv names {gone}, which is no file on the control node"),
        ({"mlflow_dotenv": str(tmp_path)}, f"{tmp_path} can't be read: "),
    ]
    for number, (added, sentence) in enumerate(REFUSED.values()):
        dotenv = tmp_path / f"{number}.env"
        dotenv.write_bytes(old.read_bytes() + (added if isinstance(added, bytes) else added.encode()))
        of_the_file = re.sub(r"line \+(\d)", lambda found: f"line {lines + int(found[1])}", sentence)
        cases.append(({"mlflow_dotenv": str(dotenv)}, of_the_file))
    run = machine.refuses_each(cases, "-vvv")
    assert [secret for secret in (HUSH, *secrets_of(old)) if secret in run.output] == []
    assert machine.state() == before
    assert machine.is_healthy()
