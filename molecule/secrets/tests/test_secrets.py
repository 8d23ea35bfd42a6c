"""Nothing that Ansible says or leaves behind, and nothing on the machine that others may read, has a secret in it."""

import json
import secrets as random
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from fixtures import wait_until
from google_cloud import Google
from places import ControlNode, Searched, Secrets
from secrecy import watched_command_lines

NAME = "mlflow-secrets"
CANARY = "canary-on-a-command-line"
SPECIAL = " %/@'\"\\${"  # each of which somebody has to quote on the way, and could get wrong


@dataclass
class Runs:
    """What was said and seen during all runs of site.yml, each with other secrets than the one before."""

    node: ControlNode
    secrets: Secrets = field(default_factory=Secrets)
    output: dict[str, str] = field(default_factory=dict)
    command_lines: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def machine() -> Searched:
    return Searched(NAME)


@pytest.fixture(scope="module")
def runs(machine: Searched, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Secrets made on the machine; made anew by mlflow_rotate or given in the inventory; and a check of other ones."""
    runs = Runs(ControlNode(tmp_path_factory.mktemp("node")))
    secrets, file = runs.secrets, tmp_path_factory.mktemp("inventory") / "settings.json"

    def password() -> str:
        return secrets.add(secrets.add(random.token_hex(12)) + SPECIAL)  # the former shows however the latter is quoted

    def key() -> dict[str, str]:
        made = Google(NAME).service_account(f"account-{random.token_hex(4)}")
        secrets.add(made["private_key_id"])
        secrets.add_pem(made["private_key"])
        return {f"mlflow_gcp_key_{name}": value for name, value in made.items() if name != "universe_domain"}

    def environment() -> dict[str, str]:
        return {"PROMISE_SECRET": password(), "PROMISE_KEY": "\n".join(secrets.add(random.token_hex(12)) for _ in "ab")}

    def user() -> list[dict]:
        return [{"name": "alice", "password": secrets.add(random.token_urlsafe(18), "alice")}]

    machine.mark()
    with watched_command_lines(machine.name, secrets.forms, control_node=True) as runs.command_lines:
        settings = {
            "mlflow_postgres_password": password(),
            "mlflow_environment": environment(),
            "mlflow_users": user(),
            **key(),
        }
        runs.output["made"] = machine.provision(runs.node, file, settings)
        secrets.add_made(machine)
        settings |= {
            "mlflow_postgres_password": password(),
            "mlflow_environment": environment(),
            "mlflow_users": user(),
            **key(),
            "mlflow_auth_admin_password": secrets.add(random.token_urlsafe(18), "admin"),
            "mlflow_auth_flask_secret_key": secrets.add(random.token_hex(32)),
            "mlflow_crypto_kek_passphrase": secrets.add(random.token_hex(32)),
        }
        anew = ("--extra-vars", "mlflow_rotate=metrics_token")
        runs.output["given"] = machine.provision(runs.node, file, settings, *anew)
        secrets.add_made(machine)
        others = {
            "mlflow_postgres_password": password(),
            "mlflow_environment": environment(),
            "mlflow_users": user(),
            **key(),
        }
        runs.output["checked"] = machine.provision(runs.node, file, settings | others, "--check")
        secrets.add(CANARY)
        machine.run(f"sleep 1 && : {CANARY}")
    secrets.forms.remove(CANARY)
    return runs


def test_secrets_are_in_use(machine: Searched, runs: Runs):
    """So that a search for them is a search for something; and Prometheus gets in by the token that was made anew."""
    assert len(runs.secrets.forms) > 100
    for path in ("/etc/mlflow/mlflow.env", "/etc/mlflow/google-credentials.json", "/etc/mlflow/secrets/metrics-token"):
        assert runs.secrets.within(machine.run(f"cat {path}")), path
    ask = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode())"
    query = "http://127.0.0.1:9090/api/v1/query?query=up%7Bjob=%22mlflow%22%7D"

    def scraped() -> bool:
        found = json.loads(machine.host.check_output("python3 -c %s %s", ask, query))["data"]["result"]
        return bool(found) and found[0]["value"][1] == "1"

    wait_until(scraped, 30, "Prometheus gets MLflow's metrics")


@pytest.mark.parametrize("run", ["made", "given", "checked"])
def test_no_verbosity_shows_a_secret(runs: Runs, run: str):
    assert "TASK [mlops.mlflow.mlflow : configure" in runs.output[run]
    assert "EXEC" in runs.output[run]  # as -vvv has it
    assert runs.secrets.within(runs.output[run]) == []


def test_no_command_line_has_a_secret_even_for_a_moment(runs: Runs):
    assert runs.command_lines
    assert [line for line in runs.command_lines if CANARY not in line] == []


def test_control_node_keeps_no_secret(runs: Runs):
    assert list((runs.node.folder / "facts").iterdir())
    assert (runs.node.folder / "ansible.log").stat().st_size > 100_000
    assert runs.node.showing(runs.secrets) == {}


def test_no_secret_in_journal_or_unit(machine: Searched, runs: Runs):
    assert runs.secrets.within(machine.journal()) == []
    assert runs.secrets.within(machine.units()) == []


def test_no_secret_in_a_file_for_everybody_or_where_none_belongs(machine: Searched, runs: Runs):
    assert machine.readable_files(runs.secrets) == []
    assert machine.left_behind(runs.secrets) == []


def test_search_finds_what_is_planted(machine: Searched, tmp_path: Path):
    """Each place in turn: a search that finds nothing anywhere would find no secret either."""
    planted = Secrets()
    word = planted.add(random.token_hex(16))
    machine.run(f"logger {word}")
    machine.run(f"systemd-run --quiet --unit=planted --setenv=PLANTED={word} sleep infinity")
    machine.run(f"umask 077; mkdir -p /root/.ansible/tmp; echo {word} | tee /root/.ansible/tmp/planted > /tmp/planted")
    machine.run(f"umask 022; echo {word} > /srv/planted; echo {word} > /run/planted")
    node = ControlNode(tmp_path)
    (tmp_path / "facts").write_text(json.dumps({"ansible_env": word}))
    try:
        wait_until(lambda: planted.within(machine.journal()) == [word], 10, "the journal has the line")
        assert planted.within(machine.units()) == [word]
        assert {"/srv/planted", "/run/planted"} <= set(machine.readable_files(planted))
        assert {"/root/.ansible/tmp/planted", "/tmp/planted"} <= set(machine.left_behind(planted))
        assert node.showing(planted) == {"facts": [word]}
    finally:
        machine.run("systemctl stop planted; rm -f /root/.ansible/tmp/planted /tmp/planted /srv/planted /run/planted")
