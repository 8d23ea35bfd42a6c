"""Accounts on the machine, without MLflow: the password check, the machine's own key, the users, the keys' files.

The scenario `access` tests them with MLflow.
"""

import asyncio
import base64
import http.server
import json
import stat
import threading

import pytest
from mlflow_service import admin
from mlflow_service.accounts import client, local_key, login, passphrases, reconcile


class Hashes:
    """Users' stored hashes, and a comparison that counts how often it is made."""

    def __init__(self, **passwords):
        self.stored = {name: f"hash of {password}" for name, password in passwords.items()}
        self.compared = []

    def stored_hash(self, name):
        return self.stored.get(name, "")

    def verify(self, stored, password):
        self.compared.append(stored)
        return stored == f"hash of {password}"

    def passwords(self, key=None):
        return login.Passwords(self.stored_hash, self.verify, key, nobody="hash of nobody")


def test_right_password_is_compared_once_and_wrong_one_each_time():
    hashes = Hashes(alice="right")
    passwords = hashes.passwords()
    assert [passwords.authenticate_user("alice", "right") for _ in range(3)] == [True] * 3
    assert len(hashes.compared) == 1
    assert [passwords.authenticate_user("alice", "wrong") for _ in range(2)] == [False] * 2
    assert len(hashes.compared) == 3


def test_changed_password_and_removed_user_count_from_the_next_request_for_every_worker():
    hashes = Hashes(alice="right", bob="other")
    workers = [hashes.passwords(), hashes.passwords()]
    for passwords in workers:
        assert passwords.authenticate_user("alice", "right")
        assert passwords.authenticate_user("bob", "other")
    hashes.stored["alice"] = "hash of new"
    del hashes.stored["bob"]
    for passwords in workers:
        assert not passwords.authenticate_user("alice", "right")
        assert passwords.authenticate_user("alice", "new")
        assert not passwords.authenticate_user("bob", "other")


def test_one_users_password_is_not_anothers():
    hashes = Hashes(alice="right", bob="other")
    passwords = hashes.passwords()
    assert passwords.authenticate_user("alice", "right")
    assert not passwords.authenticate_user("bob", "right")


def test_unknown_name_costs_a_comparison_too():
    hashes = Hashes()
    assert not hashes.passwords().authenticate_user("mallory", "guess")
    assert hashes.compared == ["hash of nobody"]


def test_machines_key_is_the_admins_and_nobody_elses():
    passwords = Hashes(alice="right", admin="own").passwords(key=("admin", "local"))
    assert passwords.authenticate_user("admin", "local")
    assert passwords.authenticate_user("admin", "own")
    assert not passwords.authenticate_user("alice", "local")
    assert not passwords.authenticate_user("admin", "")


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(login, "REMEMBERED", 3)
    hashes = Hashes(**{f"user{number}": "right" for number in range(10)})
    passwords = hashes.passwords()
    assert all(passwords.authenticate_user(name, "right") for name in hashes.stored)
    assert len(passwords.right) <= 3


def answer(app, path, **headers):
    statuses = []

    async def send(message):
        statuses.append(message.get("status"))

    given = [(name.encode(), value.encode()) for name, value in headers.items()]
    asyncio.run(app({"type": "http", "path": path, "headers": given}, None, send))
    return statuses[0]


async def open_app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200})


@pytest.mark.parametrize("path", ["/api/3.0/mlflow/server-info", "/tracking/ajax-api/3.0/mlflow/server-info"])
@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (None, 401),
        ("", 401),
        ("Basic", 401),
        ("Basic !!", 401),
        ("Bearer x", 401),
        (local_key.basic("alice", "wrong"), 401),
        (local_key.basic("alice", "right"), 200),
    ],
)
def test_configuration_is_told_only_to_who_has_a_password(path, authorization, status):
    app = login.Closed(open_app, Hashes(alice="right").passwords())
    headers = {} if authorization is None else {"authorization": authorization}
    assert answer(app, path, **headers) == status


def test_other_paths_are_left_to_mlflow():
    assert answer(login.Closed(open_app, Hashes().passwords()), "/health") == 200


@pytest.fixture
def runtime_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    return tmp_path


def test_machines_key_is_new_each_time_and_for_its_owner_only(runtime_folder):
    assert local_key.header() == ""
    local_key.write("admin")
    first = local_key.read()
    local_key.write("admin")
    assert first[0] == "admin"
    assert local_key.read()[1] != first[1]
    assert {stat.S_IMODE(path.stat().st_mode) for path in runtime_folder.iterdir()} == {0o600}
    assert base64.b64decode(local_key.header().removeprefix("Basic ")).decode() == ":".join(local_key.read())


def test_every_passphrase_is_remembered_once_and_for_the_service_only(tmp_path):
    for passphrase in ("one", "two", "", "one"):
        known = passphrases.remember(passphrase, tmp_path)
    assert known == ["one", "two"]
    assert stat.S_IMODE((tmp_path / passphrases.RING).stat().st_mode) == 0o600


def test_machines_secrets_become_mlflows_variables(tmp_path):
    (tmp_path / "kek-passphrase").write_text("passphrase\n")
    environment = {"MLFLOW_SERVICE_SECRETS": str(tmp_path)}
    passphrases.load(environment)
    assert environment["MLFLOW_CRYPTO_KEK_PASSPHRASE"] == "passphrase"
    assert "MLFLOW_FLASK_SERVER_SECRET_KEY" not in environment


@pytest.fixture
def server(runtime_folder):
    """A server on this machine that lets in only who has the machine's key of this moment, and makes a new one first."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if not local_key.read():
                local_key.write("admin")
            right = self.headers.get("Authorization") == local_key.header()
            self.send_response(200 if right else 401)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()


def test_check_takes_the_key_that_its_own_request_has_brought_about(server):
    client.Server(server, local_key=True).request("GET", "/health")


def test_key_is_sent_only_where_it_is_asked_for(server):
    local_key.write("admin")
    with pytest.raises(client.ServerError) as refused:
        client.Server(server).request("GET", "/health")
    assert refused.value.status == 401


class Recorded(reconcile.Accounts):
    """Accounts of a server that is not there: what would be asked of it, and what it would answer."""

    def __init__(self, granted=(), pretend=False):
        super().__init__(client.Server("http://nowhere"), pretend)
        self.asked = []
        self.passwords = {"alice": "right"}
        self.rows = [
            {
                "role_id": 7,
                "role_name": "__user_3__",
                "resource_type": kind,
                "resource_pattern": name,
                "permission": level,
            }
            for kind, name, level in granted
        ]

    def ask(self, method, path, body=None):
        if method == "GET" and "/users/permissions/list" in path:
            return {"permissions": self.rows}
        if method == "GET" and "/roles/permissions/list" in path:
            return {"role_permissions": [{**row, "id": number} for number, row in enumerate(self.rows, 40)]}
        if method == "GET" and "experiments/get-by-name" in path:
            if "churn" not in path:
                raise client.ServerError("no such experiment", 404)
            return {"experiment": {"experiment_id": "12"}}
        self.asked.append((method, path.rpartition("/mlflow/")[2], body))
        return {}

    def has_password(self, name, password):
        return self.passwords.get(name) == password


def wanted(**more):
    return {"name": "alice", "password": "right", **more}


def test_nothing_is_asked_where_everything_is_right():
    recorded = Recorded(granted=[("experiment", "12", "EDIT")])
    recorded.reconcile(wanted(permissions={"experiments": {"churn": "EDIT"}}), {"alice": False})
    assert (recorded.asked, recorded.changed, recorded.errors) == ([], [], [])


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (None, "READ", ("POST", "users/permissions/grant")),
        ("READ", "EDIT", ("PATCH", "roles/permissions/update")),
        ("READ", "NO_PERMISSIONS", ("POST", "users/permissions/revoke")),
        (None, "NO_PERMISSIONS", None),
    ],
)
def test_grant_is_made_changed_in_place_or_taken_away(before, after, expected):
    recorded = Recorded(granted=[("experiment", "12", before)] if before else [])
    recorded.reconcile(wanted(permissions={"experiments": {"churn": after}}), {"alice": False})
    assert [(method, path) for method, path, _ in recorded.asked] == ([expected] if expected else [])


def test_permission_on_what_does_not_exist_yet_waits_and_the_rest_is_done():
    recorded = Recorded()
    recorded.reconcile(wanted(permissions={"experiments": {"chrun": "READ", "churn": "READ"}}), {"alice": False})
    assert recorded.waiting == [
        "alice gets READ on the experiment chrun once there is one: run the playbook again then, or correct the name in mlflow_users."
    ]
    assert recorded.errors == []
    assert len(recorded.asked) == len(recorded.changed) == 1


def test_no_permission_on_what_does_not_exist_is_what_there_is():
    recorded = Recorded()
    recorded.reconcile(wanted(permissions={"experiments": {"chrun": "NO_PERMISSIONS"}}), {"alice": False})
    assert (recorded.asked, recorded.errors, recorded.waiting) == ([], [], [])


@pytest.mark.parametrize("answer", [b"[]", b"5", b"{", b'{"users": 5}', b'{"users": [{"name": "x"}]}', b"\xff"])
def test_answer_that_is_none_of_mlflows_is_one_sentence(runtime_folder, monkeypatch, answer):
    """The server may be somebody else's by now."""
    local_key.write("admin")
    monkeypatch.setattr(client.Server, "request", lambda *_, **__: answer)
    done = reconcile.reconcile(reconcile.Wanted("http://nowhere", "admin", "/nowhere"), pretend=False)
    assert done == {"changed": [], "errors": ["the server answers what MLflow does not."], "waiting": []}


def test_what_is_pretended_is_told_and_not_done():
    recorded = Recorded(pretend=True)
    recorded.reconcile(wanted(admin=True, password="another one"), {"alice": False})
    recorded.reconcile({"name": "bob", "state": "absent"}, {"bob": False})
    assert recorded.changed == ["set the password of alice", "made alice an admin", "removed bob"]
    assert recorded.asked == []


def test_no_sentence_has_a_password():
    recorded = Recorded()
    recorded.reconcile(wanted(password="a new secret one"), {"alice": False})
    recorded.reconcile({"name": "carol", "password": "her secret one"}, {})
    assert "secret" not in json.dumps([recorded.changed, recorded.errors])


def test_command_goes_to_its_own_server_with_the_machines_key(runtime_folder, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    local_key.write("admin")
    environment = {"MLFLOW_SERVICE_URL": "http://127.0.0.1:5001"}
    admin.name_server(environment)
    assert environment["MLFLOW_TRACKING_USERNAME"] == "admin"
    elsewhere = {"MLFLOW_TRACKING_URI": "http://elsewhere", **environment}
    elsewhere.pop("MLFLOW_TRACKING_USERNAME")
    admin.name_server(elsewhere)
    assert "MLFLOW_TRACKING_USERNAME" not in elsewhere
