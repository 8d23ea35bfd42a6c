"""The machine's own key to its server: how mlflow-check, the warm-up and the like get in where accounts are on.

Each start of the server makes a new one. As the password of the admin's name it is accepted
(login.py), whatever the admin's own password is. Only root and the service's user can read it.
Root reads what the service has written, so what can be no such key is none. Standard library only.
"""

import base64
import re
import secrets

from mlflow_service.system import files, runtime

BYTES = 32
NAME = re.compile(r"[!-9;-~]{1,255}")  # as mlflow_auth_admin_username may be
TOKEN = re.compile(r"[\w-]{43}", re.ASCII)  # BYTES by secrets.token_urlsafe


def write(user: str) -> None:
    """Make a new key for the admin of this name, in the service's runtime folder."""
    for name, content in (("local-user", user), ("local-token", secrets.token_urlsafe(BYTES))):
        files.write(runtime.folder() / name, content.encode())


def read() -> tuple[str, str] | None:
    """The admin's name and the key; None where accounts are off, no server runs, or the caller may not read it."""
    try:
        name = files.read(runtime.folder() / "local-user", 255).decode("ascii")
        token = files.read(runtime.folder() / "local-token", 255).decode("ascii")
    except (OSError, files.Refusal, ValueError):
        return None
    return (name, token) if NAME.fullmatch(name) and TOKEN.fullmatch(token) else None


def basic(user: str, password: str) -> str:
    """The header ``Authorization`` that a client sends; see RFC 7617."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def credentials(header: bytes) -> tuple[str, str] | None:
    """The name and the password in such a header; None where it has none."""
    scheme, _, encoded = header.partition(b" ")
    try:
        name, colon, password = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except ValueError:
        return None
    return (name, password) if colon and scheme.lower() == b"basic" else None


def header() -> str:
    """The same with the key, or the empty string where there is none."""
    key = read()
    return basic(*key) if key else ""
