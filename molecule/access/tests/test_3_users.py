"""Users and secrets, from the inventory and on the machine."""

import json
import secrets

from callers import Caller, admin_password
from fixtures import Machine

ALICE = {"name": "alice", "password": "the password of alice", "permissions": {"experiments": {"Default": "EDIT"}}}
MALLORY = {"name": "mallory", "password": "the password of mallory"}
SECRETS = "/etc/mlflow/secrets"
HASHES = """
import json, sqlite3
print(json.dumps(dict(sqlite3.connect("/var/lib/mlflow/auth.db").execute("SELECT username, password_hash FROM users"))))
"""


def hashes(machine: Machine) -> dict[str, str]:
    """What the database has of each user's password."""
    return json.loads(machine.host.check_output("python3 -c %s", HASHES))


def is_let_in(machine: Machine, name: str, password: str) -> bool:
    """Whether every worker lets the user in, or none: they have no memory of their own."""
    answers = {Caller(machine.url, name, password).get("/api/2.0/mlflow/users/current").status for _ in range(8)}
    assert len(answers) == 1, answers
    return answers == {200}


def permission(machine: Machine, user: str, experiment: str = "0") -> str:
    asked = {"username": user, "resource_type": "experiment", "resource_id": experiment}
    admin = Caller(machine.url, "admin", admin_password(machine))
    return admin.get("/api/3.0/mlflow/users/permissions/get", **asked).json["permission"]


def test_secrets_are_made_on_the_machine_for_those_who_need_them(machine: Machine) -> None:
    assert machine.run(f"stat -c '%a %U %G %n' {SECRETS} {SECRETS}/*").splitlines() == [
        f"750 root mlflow {SECRETS}",
        f"600 root root {SECRETS}/admin-password",
        f"640 root mlflow {SECRETS}/flask-secret-key",
        f"640 root mlflow {SECRETS}/kek-passphrase",
        f"640 root mlflow {SECRETS}/metrics-token",
    ]
    made = machine.run(f"cd {SECRETS}; tail -qn1 *; for f in *; do cat $f; echo; done").split()
    assert len(set(made)) >= 4
    assert (
        machine.run("stat -c '%a %U' /run/mlflow/local-token /var/lib/mlflow/auth.db").splitlines()
        == ["600 mlflow"] * 2
    )


def test_admin_gets_in_with_the_made_password_and_no_older_one(machine: Machine) -> None:
    assert is_let_in(machine, "admin", admin_password(machine))
    assert not is_let_in(machine, "admin", "password1234")


def test_users_are_added_changed_and_removed_at_once_for_every_worker(machine: Machine) -> None:
    bob = {"name": "bob", "password": "bob's first password", "permissions": {"experiments": {"Default": "READ"}}}
    first = machine.converge(mlflow_users=[ALICE, MALLORY, bob])
    assert "added bob" in first.output
    assert is_let_in(machine, "bob", "bob's first password")
    assert permission(machine, "bob") == "READ"
    alices = hashes(machine)["alice"]

    bob |= {"password": "bob's second password", "permissions": {"experiments": {"Default": "NO_PERMISSIONS"}}}
    checked = machine.playbook("--check", "--extra-vars", json.dumps({"mlflow_users": [ALICE, MALLORY, bob]}))
    assert checked.changed == 1
    assert is_let_in(machine, "bob", "bob's first password")
    second = machine.converge(mlflow_users=[ALICE, MALLORY, bob])
    assert second.changed == 1
    assert not is_let_in(machine, "bob", "bob's first password")
    assert is_let_in(machine, "bob", "bob's second password")
    assert permission(machine, "bob") == "NO_PERMISSIONS"
    assert hashes(machine)["alice"] == alices

    # Who is not named stays, and so does what is not named.
    before, state = hashes(machine), machine.state()
    assert machine.converge(mlflow_users=[]).changed == 0
    assert permission(machine, "bob") == "NO_PERMISSIONS"
    assert (hashes(machine), machine.state()) == (before, state)

    gone = machine.converge(mlflow_users=[{"name": "bob", "state": "absent"}])
    assert "removed bob" in gone.output
    assert not is_let_in(machine, "bob", "bob's second password")


def test_permission_on_an_experiment_that_is_not_there_waits_for_it(machine: Machine, admin: Caller) -> None:
    """It is said in the summary until then. And nothing is changed for a user who is absent already."""
    carol = {"name": "carol", "password": "the password of carol", "permissions": {"experiments": {"later": "EDIT"}}}
    users = [carol, {"name": "bob", "state": "absent"}]
    first = machine.converge(mlflow_users=users)
    waits = "Waits carol gets EDIT on the experiment later once there is one"
    assert waits in first.said
    assert "removed bob" not in first.said
    assert is_let_in(machine, "carol", "the password of carol")
    admin.post("/api/2.0/mlflow/experiments/create", name="later")
    second = machine.converge(mlflow_users=users)
    assert "carol has EDIT on experiments later, not NO_PERMISSIONS" in second.output
    assert waits not in second.said


def test_password_that_was_changed_elsewhere_is_set_again(machine: Machine, admin: Caller) -> None:
    changed = {"username": "alice", "password": "chosen by alice herself"}
    assert admin.call("PATCH", "/api/2.0/mlflow/users/update-password", changed).status == 200
    assert not is_let_in(machine, "alice", ALICE["password"])
    assert machine.converge().changed == 1
    assert is_let_in(machine, "alice", ALICE["password"])


REFUSED = [
    (
        {"mlflow_auth_enabled": False},
        "everybody who reaches the machine could read and delete everything",
        "mlflow_users has users, but there are no accounts",
    ),
    (
        {"mlflow_auth_admin_password": "elevenchars", "mlflow_users": [{"password": "x"}, ALICE]},
        "mlflow_auth_admin_password has fewer than 12 characters",
        "Entry 1 of mlflow_users has no name",
    ),
]


def test_wrong_settings_are_refused_in_sentences_before_anything_is_touched(machine: Machine) -> None:
    before = machine.state()
    run = machine.refuses_each(REFUSED)
    assert "elevenchars" not in run.output
    assert machine.state() == before


def add_gateway_secret(admin: Caller) -> str:
    made = admin.post(
        "/api/3.0/mlflow/gateway/secrets/create",
        secret_name=f"key-{secrets.token_hex(4)}",
        secret_value={"api_key": f"sk-{secrets.token_hex(8)}"},
        provider="openai",
    )
    return made.json["secret"]["secret_id"]


READ_SECRETS = """
set -a; . /etc/mlflow/mlflow.env; MLFLOW_CRYPTO_KEK_PASSPHRASE=$(cat /etc/mlflow/secrets/kek-passphrase); set +a
cd /var/lib/mlflow; HOME=/var/lib/mlflow exec setpriv --reuid=mlflow --regid=mlflow --init-groups /opt/mlflow/current/bin/python -c '
import json, sqlite3
from mlflow.utils.crypto import KEKManager, _decrypt_secret
rows = sqlite3.connect("mlflow.db").execute("SELECT secret_id, secret_name, encrypted_value, wrapped_dek FROM secrets")
print(json.dumps({row[0]: _decrypt_secret(row[2], row[3], KEKManager(), row[0], row[1]) for row in rows}))'
"""


def gateway_secrets(machine: Machine) -> dict[str, dict]:
    """The gateway's secrets in the clear, as a worker of the server reads them."""
    return json.loads(machine.host.check_output("sh -c %s", READ_SECRETS).splitlines()[-1])


def test_rotation_makes_new_secrets_and_loses_nothing(machine: Machine, admin: Caller) -> None:
    made = add_gateway_secret(admin)
    before = machine.run(f"sha256sum {SECRETS}/*").splitlines()
    readable, users, password = gateway_secrets(machine), hashes(machine), admin_password(machine)
    assert made in readable
    machine.converge(mlflow_rotate=["admin_password", "flask_secret_key", "kek_passphrase", "metrics_token"])
    after = machine.run(f"sha256sum {SECRETS}/*").splitlines()
    assert not set(before) & set(after)
    assert gateway_secrets(machine) == readable
    assert not is_let_in(machine, "admin", password)
    assert is_let_in(machine, "admin", admin_password(machine))
    assert {name: users[name] for name in ("alice", "mallory")}.items() <= hashes(machine).items()


def test_passphrase_of_the_inventory_opens_what_the_machines_own_had_closed(machine: Machine, admin: Caller) -> None:
    add_gateway_secret(admin)
    readable = gateway_secrets(machine)
    machine.converge(mlflow_crypto_kek_passphrase="a passphrase for several servers")
    assert gateway_secrets(machine) == readable
    machine.converge()  # the file keeps it
    assert machine.run(f"cat {SECRETS}/kek-passphrase") == "a passphrase for several servers"


def test_passphrase_that_is_given_up_with_a_failed_change_leaves_the_secrets_readable(
    machine: Machine, admin: Caller
) -> None:
    add_gateway_secret(admin)
    readable, before = gateway_secrets(machine), machine.run(f"sha256sum {SECRETS}/*")
    failed = machine.playbook(
        "--extra-vars", json.dumps({"mlflow_rotate": "kek_passphrase", "mlflow_server_options": ["--no-such-option"]})
    )
    assert failed.status != 0
    assert "run again" in failed.said
    assert machine.run(f"sha256sum {SECRETS}/*") == before
    assert gateway_secrets(machine) == readable
    assert machine.is_healthy()


def test_server_whose_admin_lost_the_password_is_still_the_machines(machine: Machine, admin: Caller) -> None:
    lost = {"username": "admin", "password": "nobody knows this one", "current_password": admin_password(machine)}
    assert admin.call("PATCH", "/api/2.0/mlflow/users/update-password", lost).status == 200
    assert machine.is_healthy()
    assert "Default" in machine.run("mlflow-admin experiments search")
    machine.run("systemctl restart mlflow")
    assert machine.converge().changed == 1
    assert is_let_in(machine, "admin", admin_password(machine))


def test_deep_check_gets_in(machine: Machine) -> None:
    begun = float(machine.run("date +%s.%N"))
    machine.run("systemctl start mlflow-check.service")
    assert json.loads(machine.run("cat /run/mlflow-check/state.json"))["last_success"] > begun


def test_local_key_is_new_at_each_start_and_the_old_one_is_worth_nothing(machine: Machine) -> None:
    old = machine.run("cat /run/mlflow/local-token")
    assert is_let_in(machine, "admin", old)
    assert not is_let_in(machine, "alice", old)
    machine.run("systemctl restart mlflow")
    assert not is_let_in(machine, "admin", old)
