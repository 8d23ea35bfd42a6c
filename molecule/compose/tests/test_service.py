"""The old service's `.env` makes a server that its clients can't tell from the old one, and shows no secret."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

import pytest
from conftest import SERVICES, Client, Service
from fixtures import Run
from google_cloud import Google
from old_service import key_of, secrets_of
from secrecy import files_with, watched_command_lines

CANARY = "canary-in-a-command-line"
CREDENTIALS_FILE = "/etc/mlflow/google-credentials.json"

# The name of the .env, its port, whom PostgreSQL sees, the names that mean nothing to the role. The machine is left with
# the last one.
KINDS = [
    ("references", 5055, "by string", "DATABASE_PASSWORD"),
    ("fields", 5001, "mlflow", "COMPOSE_PROJECT_NAME, SOME_OTHER"),
]


@dataclass
class Provisioned:
    """A `.env`, the run of site.yml that took it over, and what a client did after it.

    Attributes:
        secrets: what nobody but the service may see.
        command_lines: those with a secret, while site.yml ran.
        logged: what log_everything.py printed.
        requests: to Cloud Storage, from after the run until the client was ready.
    """

    dotenv: Path
    port: int
    application: str
    unknown: str
    secrets: list[str]
    command_lines: list[str] = field(default_factory=list)
    run: Run | None = None
    logged: dict = field(default_factory=dict)
    requests: list[dict] = field(default_factory=list)


@pytest.fixture(scope="module")
def logged() -> list[dict]:
    """What clients have logged, by one `.env` after the other."""
    return []


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind[0])
def provisioned(
    *, request: pytest.FixtureRequest, machine: Service, client: Client, google: Google, logged: list[dict]
) -> Provisioned:
    """The machine by one of the `.env` files: by the first of them from an SQLite store, by the next from the other."""
    name, *expected = request.param
    dotenv = SERVICES / name / ".env"
    there = Provisioned(dotenv, *expected, secrets_of(dotenv))
    with watched_command_lines(machine.name, [*there.secrets, CANARY]) as there.command_lines:
        there.run = machine.provision(dotenv, "-vvv", "--diff")
        machine.run(f"sleep 1 && : {CANARY}")
    assert there.run.status == 0, there.run.output[-6000:]
    assert there.run.changed > 0
    google.forget_requests()
    there.logged = client.run("log_everything.py", port=there.port)
    there.requests = [request for request in google.requests() if request["host"] == "storage.googleapis.com"]
    logged.append(there.logged)
    return there


def test_what_clients_send_is_where_it_always_was(google, database, provisioned):
    """Params, metrics, artifacts and a model; the client has read back all of it."""
    objects = {stored["name"]: int(stored["size"]) for stored in google.objects("mlflow-artifacts")}
    experiment = database.ask(
        f"SELECT experiment_id FROM experiments WHERE name = '{provisioned.logged['experiment']}'"
    )
    run = provisioned.logged["run_id"]
    assert objects[f"mlflow-artifacts-v1/{experiment}/{run}/artifacts/files/weights.bin"] == 20 * 1024 * 1024
    assert database.ask(f"SELECT value FROM params WHERE key = 'kind' AND run_uuid = '{run}'") == "forest"
    assert database.ask(f"SELECT count(*) FROM metrics WHERE key = 'loss' AND run_uuid = '{run}'") == "20"
    models = f"SELECT storage_location FROM model_versions WHERE name = '{provisioned.logged['experiment']}'"
    folder = database.ask(models).removeprefix("mlflow-artifacts:/")
    assert f"mlflow-artifacts-v1/{folder}/MLmodel" in objects


def test_google_sees_the_old_service_account_alone(provisioned):
    assert {request["method"] for request in provisioned.requests} >= {"POST", "GET"}
    assert {request["identity"] for request in provisioned.requests} == {key_of(provisioned.dotenv)["client_email"]}


def test_postgresql_sees_the_old_user(database, provisioned):
    users = database.ask(
        "SELECT DISTINCT usename, application_name FROM pg_stat_activity"
        " WHERE datname = 'tracking' AND backend_type = 'client backend' AND usename <> 'postgres'"
    )
    assert users == f"mlflow_app|{provisioned.application}"


def test_every_field_of_the_key_arrives(machine, provisioned):
    written = json.loads(machine.host.file(CREDENTIALS_FILE).content_string)
    # There is no field for Google's own universe, which is the default.
    assert {**written, "universe_domain": "googleapis.com"} == key_of(provisioned.dotenv)
    assert 'GOOGLE_CLOUD_PROJECT="stand-in"' in machine.run("cat /etc/mlflow/mlflow.env")


def test_second_run_changes_nothing(machine, provisioned):
    """And one in check mode, which is asked on the other kind of file, would not either."""
    before = machine.state()
    again = machine.provision(
        provisioned.dotenv, *(["--check", "--diff"] if provisioned.dotenv.parent.name == KINDS[0][0] else [])
    )
    assert (again.status, again.changed) == (0, 0), again.output[-6000:]
    assert machine.state() == before


def test_names_without_a_meaning_are_listed(provisioned):
    said = " ".join(provisioned.run.output.split())
    assert f"Not taken over from {provisioned.dotenv}: {provisioned.unknown}." in said
    assert "a value of no use" not in said


def test_no_verbosity_shows_a_secret(provisioned):
    assert "TASK [mlops.mlflow.mlflow : configure" in provisioned.run.output
    assert [secret for secret in provisioned.secrets if secret in provisioned.run.output] == []


def test_no_command_line_has_a_secret_even_for_a_moment(provisioned):
    assert provisioned.command_lines
    assert [line for line in provisioned.command_lines if CANARY not in line] == []


def test_no_secret_in_journal_or_unit(machine, provisioned):
    text = machine.run("journalctl --no-pager --output=export")
    text += machine.run("systemctl show mlflow.service mlflow.socket")
    assert "mlflow" in text
    assert [secret for secret in provisioned.secrets if secret in text] == []


def test_service_alone_can_read_the_secrets(machine, provisioned):
    found = files_with(machine.name, provisioned.secrets)
    assert found == [CREDENTIALS_FILE, "/etc/mlflow/mlflow.env"]
    assert machine.run(f"stat --format='%U %G %a' {' '.join(found)}").split("\n") == ["root mlflow 640"] * 2


def test_what_was_logged_by_one_file_is_there_by_the_other(client, logged):
    """They tell of one database and one bucket."""
    first, _ = logged
    assert client.run("read_run.py", first["run_id"], first["experiment"], port=KINDS[-1][1]) == {"status": "FINISHED"}


def test_inventory_wins_over_the_env(google, machine, tmp_path):
    inventory = tmp_path / "hosts.yml"
    settings = {"mlflow_port": 5099, "mlflow_artifacts_folder": "from-inventory", "mlflow_gcp_auth": "metadata"}
    inventory.write_text(json.dumps({"compose": {"hosts": {machine.name: {}}, "vars": settings}}))
    dotenv = SERVICES / "fields" / ".env"
    google.forget_requests()
    done = machine.provision(dotenv, "--inventory", str(inventory))
    assert done.status == 0, done.output[-6000:]
    assert machine.listens_on(5099)
    assert not machine.listens_on(5001)
    requests = [request for request in google.requests() if request["host"] == "storage.googleapis.com"]
    assert {request["identity"] for request in requests} == {"vm@stand-in.iam.gserviceaccount.com"}
    places = [unquote(f"{request['path']} {request['query']}") for request in requests]
    assert any("from-inventory/" in place for place in places)
    assert not any("mlflow-artifacts-v1" in place for place in places)
    assert not machine.host.file(CREDENTIALS_FILE).exists
