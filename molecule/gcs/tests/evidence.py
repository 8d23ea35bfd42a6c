"""What the tests of this scenario look at: Google's records, and places where a secret could show."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fixtures import Machine, Run
from google_cloud import Google

CLIENTS = Path(__file__).parents[1] / "clients"
EXCHANGE = str(CLIENTS / "exchange_artifacts.py")
BUCKET = "mlflow-artifacts"
FOLDER = "team/tracking"
CREDENTIALS_FILE = "/etc/mlflow/google-credentials.json"

# Reads a list of secrets from standard input, and prints which command lines had one of them until that was closed.
WATCHER = """
import json, os, sys, threading
secrets = [secret.encode() for secret in json.loads(sys.stdin.readline())]
stop, seen = threading.Event(), set()
threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
print("started", flush=True)
while not stop.wait(0.005):
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                line = file.read()
        except OSError:
            continue
        if any(secret in line for secret in secrets):
            seen.add(line.replace(b"\\0", b" ").decode(errors="replace")[:500])
print(json.dumps(sorted(seen)))
"""


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


@contextmanager
def watched_command_lines(machine: Machine, secrets: list[str]) -> Iterator[list[str]]:
    """Command lines with a secret, of any process on the machine or the control node while the block lasts."""
    there = ["docker", "exec", "--interactive", machine.name, "python3", "-c", WATCHER]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    watchers = [subprocess.Popen(command, **pipes) for command in (there, ["python3", "-c", WATCHER])]
    seen: list[str] = []
    try:
        for watcher in watchers:
            print(json.dumps(secrets), file=watcher.stdin, flush=True)
            assert watcher.stdout.readline().strip() == "started"
        yield seen
    finally:
        said = [watcher.communicate(timeout=30)[0] for watcher in watchers]
    for lines in said:
        seen += json.loads(lines)
