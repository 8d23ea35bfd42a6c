"""Make users and permissions what the inventory says.

Goes through MLflow's REST API, with the machine's own key (local_key.py), so it works whatever the
admin's password is, which it sets as well. Whether a password is right is found out by using it, so
that one that is right is never set again. Users and permissions that are not named stay. Standard library only.
"""

import contextlib
import json
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow_service.accounts import client, local_key

REMOVED = "NO_PERMISSIONS"  # MLflow keeps no such grant: what is left without one is the default permission
KINDS = {
    "experiments": ("experiment", "/api/2.0/mlflow/experiments/get-by-name?experiment_name="),
    "registered_models": ("registered_model", "/api/2.0/mlflow/registered-models/get?name="),
}
EVERY = "*"


@dataclass
class Wanted:
    """What there should be.

    Attributes:
        url: where the machine itself reaches the server.
        admin: name of the admin of this machine.
        admin_password_file: file with that admin's password.
        users: entries of mlflow_users.
    """

    url: str
    admin: str
    admin_password_file: str
    users: list[dict[str, Any]] = field(default_factory=list)


@contextlib.contextmanager
def odd_is_an_error() -> Iterator[None]:
    """Turn what a block can't make of an answer into a CheckError."""
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise client.ServerError("the server answers what MLflow does not") from error


class Accounts:
    """The accounts of a running server.

    Args:
        server: asked with the machine's own key.
        pretend: whether changes are only told.
    """

    def __init__(self, server: client.Server, pretend: bool = False) -> None:
        self.server = server
        self.pretend = pretend
        self.changed: list[str] = []
        self.errors: list[str] = []
        self.waiting: list[str] = []

    def ask(self, method: str, path: str, body: dict | None = None) -> dict[str, Any]:
        answer = self.server.request(method, path, None if body is None else json.dumps(body).encode())
        with odd_is_an_error():
            return dict(json.loads(answer or b"{}"))

    def change(self, sentence: str, method: str, path: str, body: dict) -> None:
        """Tell a change and, unless we pretend, make it."""
        self.changed.append(sentence)
        if not self.pretend:
            self.ask(method, path, body)

    def users(self) -> dict[str, bool]:
        """Names of all users, and whether each is an admin."""
        answer = self.ask("GET", "/api/2.0/mlflow/users/list")
        with odd_is_an_error():
            return {user["username"]: user["is_admin"] for user in answer["users"]}

    def has_password(self, name: str, password: str) -> bool:
        """Whether the user gets in with the password."""
        server = client.Server(self.server.url, authorization=local_key.basic(name, password))
        try:
            server.request("GET", "/api/2.0/mlflow/users/current")
        except client.ServerError as error:
            if error.status != 401:
                raise
            return False
        return True

    def set_password(self, name: str, password: str, current: str = "") -> None:
        """Give the user the password unless it is that already.

        Args:
            current: what is accepted now, where the user is the one who asks: so MLflow wants it.
        """
        if not self.has_password(name, password):
            body = {"username": name, "password": password, **({"current_password": current} if current else {})}
            self.change(f"set the password of {name}", "PATCH", "/api/2.0/mlflow/users/update-password", body)

    def reconcile(self, wanted: dict[str, Any], present: dict[str, bool]) -> None:
        """Make one user what the entry says."""
        name, admin = wanted["name"], bool(wanted.get("admin", False))
        if wanted.get("state", "present") == "absent":
            if name in present:
                self.change(f"removed {name}", "DELETE", "/api/2.0/mlflow/users/delete", {"username": name})
            return
        if name not in present:
            body = {"username": name, "password": str(wanted["password"])}
            self.change(f"added {name}", "POST", "/api/2.0/mlflow/users/create", body)
        else:
            self.set_password(name, str(wanted["password"]))
        if present.get(name, False) != admin:
            sentence = f"made {name} an admin" if admin else f"{name} is no admin any more"
            self.change(sentence, "PATCH", "/api/2.0/mlflow/users/update-admin", {"username": name, "is_admin": admin})
        granted = self.granted(name) if name in present else {}
        for kind in KINDS:
            for thing, permission in (wanted.get("permissions", {}).get(kind) or {}).items():
                self.grant(name, (kind, str(thing)), permission, granted)

    def granted(self, name: str) -> dict[tuple[str, str], dict[str, Any]]:
        """The user's own grants by type and pattern, each with its role and permission."""
        query = urllib.parse.urlencode({"username": name})
        rows = self.ask("GET", f"/api/3.0/mlflow/users/permissions/list?{query}")["permissions"]
        return {
            (row["resource_type"], row["resource_pattern"]): row
            for row in rows
            if row["role_name"].startswith("__user_")  # what a role gives that an admin has made is the admin's
        }

    def grant(self, name: str, thing: tuple[str, str], permission: str, granted: dict) -> None:
        """Let the user have the permission on an experiment or a model, given by kind and name, or on every one."""
        kind, title = thing
        resource_type, _ = KINDS[kind]
        pattern = self.find(kind, title)
        if pattern is None:
            if permission != REMOVED:
                singular = kind.removesuffix("s").replace("_", " ")
                self.waiting.append(
                    f"{name} gets {permission} on the {singular} {title} once there is one: "
                    "run the playbook again then, or correct the name in mlflow_users."
                )
            return
        row = granted.get((resource_type, pattern), {})
        before = row.get("permission", REMOVED)
        if before == permission:
            return
        sentence = f"{name} has {permission} on {kind} {title}, not {before}"
        body = {"username": name, "resource_type": resource_type, "resource_id": pattern}
        if permission == REMOVED:
            self.change(sentence, "POST", "/api/3.0/mlflow/users/permissions/revoke", body)
        elif before == REMOVED:
            self.change(sentence, "POST", "/api/3.0/mlflow/users/permissions/grant", {**body, "permission": permission})
        else:  # in place, so that the user is never without one
            listed = self.ask("GET", f"/api/3.0/mlflow/roles/permissions/list?role_id={row['role_id']}")
            (number,) = (
                one["id"]
                for one in listed["role_permissions"]
                if (one["resource_type"], one["resource_pattern"]) == (resource_type, pattern)
            )
            body = {"role_permission_id": number, "permission": permission}
            self.change(sentence, "PATCH", "/api/3.0/mlflow/roles/permissions/update", body)

    def find(self, kind: str, title: str) -> str | None:
        """What MLflow's grants call an experiment or a model of that name; None where there is none."""
        _, path = KINDS[kind]
        if title == EVERY:
            return EVERY
        try:
            found = self.ask("GET", path + urllib.parse.quote(title, safe=""))
        except client.ServerError as error:
            if error.status != 404:
                raise
            return None
        return found["experiment"]["experiment_id"] if kind == "experiments" else title


def reconcile(wanted: Wanted, pretend: bool) -> dict[str, list[str]]:
    """Bring the server's accounts into their state; goes on after an error in one of them.

    Returns:
        Sentences: what was ``changed`` (or would be), ``errors``, and permissions that are ``waiting`` for what they
        are about to exist.
    """
    accounts = Accounts(client.Server(wanted.url, local_key=True), pretend)
    key = local_key.read()
    if key is None:
        if pretend:  # accounts would be turned on by the same run
            accounts.changed = ["would have the admin and the users of mlflow_users"]
        else:
            accounts.errors = [
                "The server's own key is not there; `systemctl status mlflow` may say why it does not run."
            ]
        return {"changed": accounts.changed, "errors": accounts.errors, "waiting": []}
    steps: list[tuple[str, Callable[[], None]]] = []
    try:
        present = accounts.users()
        if pretend and not Path(wanted.admin_password_file).exists():  # the same run would make it
            accounts.changed.append(f"set the password of {wanted.admin}")
        else:
            password = Path(wanted.admin_password_file).read_text(encoding="utf-8").rstrip("\n")
            steps.append((wanted.admin, lambda: accounts.set_password(wanted.admin, password, current=key[1])))
    except (client.ServerError, OSError) as error:
        accounts.errors.append(f"{error}.")
        present = {}
    else:
        steps += [(user["name"], lambda user=user: accounts.reconcile(user, present)) for user in wanted.users]
    for name, step in steps:
        try:
            with odd_is_an_error():
                step()
        except client.ServerError as error:
            said = str(error).split(" Error: ")[0]  # behind that word MLflow quotes what it sent to the database
            accounts.errors.append(f"{name}: {said}.")
    return {"changed": accounts.changed, "errors": accounts.errors, "waiting": accounts.waiting}
