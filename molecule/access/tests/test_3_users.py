"""Users and secrets, from the inventory and on the machine."""

import json
import secrets

from callers import Caller, admin_password
from fixtures import Machine

ALICE = {"name": "alice", "password": "the password of alice", "permissions": {"experiments": {"Default": "EDIT"}}}
MALLORY = {"name": "mallory", "password": "the password of mallory"}
SECRETS = "/etc/mlflow/secrets"
PASSPHRASE = "a passphrase for several servers"  # of the inventory, for one run
HASHES = """
import json, sqlite3
print(json.dumps(dict(sqlite3.connect("/var/lib/mlflow/auth.db").execute("SELECT username, password_hash FROM users"))))
"""


def hashes(machine: Machine) -> dict[str, str]:
    """What the database has of each user's password."""
    return json.loads(machine.host.check_output("python3 -c %s", HASHES))


def is_let_in(machine: Machine, name: str, password: str) -> bool:
    """Whether the server lets the user in, or it says that it does not."""
    status = Caller(machine.url, name, password).get("/api/2.0/mlflow/users/current").status
    assert status in (200, 401)
    return status == 200


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


def test_users_are_added_changed_and_removed_at_once(machine: Machine, admin: Caller) -> None:
    """A permission on an experiment that is not there waits for it, and the summary says so until then."""
    bob = {"name": "bob", "password": "bob's first password", "permissions": {"experiments": {"Default": "READ"}}}
    carol = {"name": "carol", "password": "the password of carol", "permissions": {"experiments": {"later": "EDIT"}}}
    absent = {"name": "dave", "state": "absent"}
    first = machine.converge(mlflow_users=[ALICE, MALLORY, bob, carol, absent])
    waits = "Waits carol gets EDIT on the experiment later once there is one"
    assert "added bob" in first.output
    assert waits in first.said
    assert "removed dave" not in first.said
    assert is_let_in(machine, "bob", "bob's first password")
    assert is_let_in(machine, "carol", "the password of carol")
    assert permission(machine, "bob") == "READ"
    alices = hashes(machine)["alice"]

    bob |= {"password": "bob's second password", "permissions": {"experiments": {"Default": "NO_PERMISSIONS"}}}
    checked = machine.playbook("--check", "--extra-vars", json.dumps({"mlflow_users": [ALICE, MALLORY, bob]}))
    assert checked.changed == 1
    assert is_let_in(machine, "bob", "bob's first password")
    later = admin.post("/api/2.0/mlflow/experiments/create", name="later").json["experiment_id"]
    second = machine.converge(mlflow_users=[ALICE, MALLORY, bob, carol])
    assert second.changed == 1
    assert "carol has EDIT on experiments later, not NO_PERMISSIONS" in second.output
    assert waits not in second.said
    assert permission(machine, "carol", later) == "EDIT"
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
    machine.converge(mlflow_crypto_kek_passphrase=PASSPHRASE)
    assert gateway_secrets(machine) == readable
    assert machine.run(f"cat {SECRETS}/kek-passphrase") == PASSPHRASE


def test_passphrase_that_is_given_up_with_a_failed_change_leaves_the_secrets_readable(
    machine: Machine, admin: Caller
) -> None:
    add_gateway_secret(admin)
    readable, before = gateway_secrets(machine), machine.run(f"sha256sum {SECRETS}/*")
    failed = machine.playbook(
        "--extra-vars", json.dumps({"mlflow_rotate": "kek_passphrase", "mlflow_server_options": ["--no-such-option"]})
    )
    assert failed.status != 0
    assert "The release and the settings that ran before run again." in failed.said
    assert machine.run(f"sha256sum {SECRETS}/*") == before
    assert gateway_secrets(machine) == readable
    assert machine.is_healthy()


def test_passwords_that_were_changed_elsewhere_are_set_again(machine: Machine, admin: Caller) -> None:
    """A server whose admin has lost the password is still the machine's; and what the inventory gave once is kept."""
    changed = {"username": "alice", "password": "chosen by alice herself"}
    assert admin.call("PATCH", "/api/2.0/mlflow/users/update-password", changed).status == 200
    lost = {"username": "admin", "password": "nobody knows this one", "current_password": admin_password(machine)}
    assert admin.call("PATCH", "/api/2.0/mlflow/users/update-password", lost).status == 200
    assert not is_let_in(machine, "alice", ALICE["password"])
    assert machine.is_healthy()
    assert "Default" in machine.run("mlflow-admin experiments search")
    machine.run("systemctl restart mlflow")
    assert machine.converge().changed == 1
    assert is_let_in(machine, "alice", ALICE["password"])
    assert is_let_in(machine, "admin", admin_password(machine))
    assert machine.run(f"cat {SECRETS}/kek-passphrase") == PASSPHRASE


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
