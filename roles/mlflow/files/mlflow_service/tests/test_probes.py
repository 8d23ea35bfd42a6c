"""The stores are asked as the service will ask them: with its account, its variables and its files, and no secret shows."""

import json
import secrets
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from conftest import DATABASE_HOST, PASSWORD, command
from google_cloud import CA_BUNDLE
from mlflow_service.stores import probes, schema

HOME = "/var/lib/mlflow"
ON_POSTGRES = {
    "MLFLOW_BACKEND_STORE_URI": "postgresql+psycopg2://",
    "PGHOST": DATABASE_HOST,
    "PGPORT": "5432",
    "PGDATABASE": "outside",
    "PGUSER": "outsider",
    "PGPASSWORD": PASSWORD,
    "PGSSLMODE": "verify-full",
    "PGSSLROOTCERT": "/etc/mlflow/postgres-ca.pem",
    "PGCONNECT_TIMEOUT": "10",
    "MLFLOW_DEFAULT_ARTIFACT_ROOT": "/var/lib/mlflow/artifacts",
}
ON_GOOGLE = {
    "MLFLOW_ARTIFACTS_DESTINATION": "gs://mlflow-artifacts/team",
    "GOOGLE_APPLICATION_CREDENTIALS": "/etc/mlflow/google-credentials.json",
    "REQUESTS_CA_BUNDLE": CA_BUNDLE,
}
CA = {"/etc/mlflow/postgres-ca.pem": {"copy_of": "/srv/certificates/ca.pem"}}


def ask(environment: dict[str, str], **wanted: object) -> dict:
    """What ``python -m mlflow_service.preflight`` says, which root starts."""
    account = {"user": "mlflow", "group": "mlflow", "home": HOME}
    done = command("preflight", given=json.dumps({"environment": environment, **account, **wanted}))
    assert list(Path("/run").glob("mlflow-preflight-*")) == []
    return done.answer


@pytest.fixture
def place() -> Path:
    """A folder of the service's."""
    folder = Path(HOME) / secrets.token_hex(4)
    folder.mkdir()
    shutil.chown(folder, "mlflow", "mlflow")
    return folder


def test_files_that_the_service_will_have_are_used_before_they_are_there(postgres_server, google, bucket):
    key = google.service_account("before")
    files = {**CA, "/etc/mlflow/google-credentials.json": {"secret": json.dumps(key)}}
    google.forget_requests()
    found = ask({**ON_POSTGRES, **ON_GOOGLE}, files=files, google_auth="key_file")
    assert found["errors"] == []
    assert found["database"]["head"] == schema.head() and found["database"]["connections"] > 0
    assert found["artifacts"] == {"identity": key["client_email"], "project": "stand-in"}
    asked = google.about_objects()
    assert {request["identity"] for request in asked} == {key["client_email"]}
    assert not Path("/etc/mlflow").exists()


def test_all_that_is_wrong_is_said_at_once_and_without_a_secret(postgres_server, google, bucket):
    key = google.service_account("gone")
    google.revoke(key)
    files = {**CA, "/etc/mlflow/google-credentials.json": {"secret": json.dumps(key)}}
    backups = {"location": "gs://no-such-bucket", "google_auth": "key_file"}
    wrong = {**ON_POSTGRES, **ON_GOOGLE, "PGPASSWORD": "not-the-password"}
    found = ask(wrong, files=files, google_auth="key_file", backups=backups)
    database, artifacts, sent = found["errors"]
    assert "it does not accept the password for user outsider" in database
    assert "make a new key and set mlflow_gcp_key_file" in artifacts and "make a new key" in sent
    assert "not-the-password" not in str(found) and key["private_key_id"] not in str(found)


def test_socket_lets_the_service_be_its_own_user_alone(postgres_server):
    """Root, which starts the look, could be more."""
    postgres_server.ask("DROP DATABASE IF EXISTS peer; ")
    postgres_server.ask("CREATE DATABASE peer OWNER mlflow ENCODING 'UTF8' TEMPLATE template0")
    by_socket = {
        **ON_POSTGRES,
        "PGHOST": "/var/run/postgresql",
        "PGPASSWORD": "",
        "PGSSLMODE": "",
        "PGDATABASE": "peer",
    }
    assert ask({**by_socket, "PGUSER": "mlflow"})["errors"] == []
    (said,) = ask({**by_socket, "PGUSER": "postgres"})["errors"]
    assert (
        "over the socket it lets only the system account postgres be user postgres; set mlflow_postgres_user to" in said
    )


def test_file_that_is_a_link_is_not_read(tmp_path):
    (tmp_path / "link").symlink_to("/etc/shadow")
    files = {"/etc/mlflow/postgres-ca.pem": {"copy_of": str(tmp_path / "link")}}
    (said,) = ask(ON_POSTGRES, files=files)["errors"]
    assert str(tmp_path / "link") in said


def test_machine_without_credentials_is_not_let_go_on_without_any(google, bucket):
    """Google's library looks no further where it is told that this is no virtual machine."""
    variables = {"MLFLOW_BACKEND_STORE_URI": f"sqlite:///{HOME}/none.db", **ON_GOOGLE, "NO_GCE_CHECK": "true"}
    variables["GOOGLE_APPLICATION_CREDENTIALS"] = ""
    (said,) = ask(variables, google_auth="metadata")["errors"]
    assert "Google's library finds no credentials for mlflow_gcp_auth: metadata" in said and "NO_GCE_CHECK" in said


def make_store(path: Path, experiments: int) -> str:
    """A store that holds no more than some experiments; returns where it is."""
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE alembic_version (version_num TEXT)")
        database.execute("CREATE TABLE experiments (experiment_id INTEGER, name TEXT)")
        database.executemany("INSERT INTO experiments VALUES (?, 'e')", [(n + 1,) for n in range(experiments)])
        database.commit()
    shutil.chown(path, "mlflow", "mlflow")
    return f"sqlite:///{path}"


@pytest.mark.parametrize(
    "there, takes",
    [
        ({}, True),
        ({"runs": 2, "accounts": 1}, True),
        ({"runs": 2}, True),  # the accounts are still to come
        ({"accounts": 1}, True),
        ({"runs": 1}, False),
        ({"runs": 2, "traces": 1}, False),
        ({"runs": 2, "accounts": 2}, False),
    ],
)
def test_store_takes_another_ones_rows_where_it_is_empty_or_has_them(there, takes):
    assert probes.takes(there, {"runs": 2, "accounts": 1}) is takes


def test_store_that_is_left_is_told_with_what_it_holds_and_whether_the_new_one_takes_it(place):
    left = make_store(place / "left.db", 2)
    (place / "left.env").write_text(f'MLFLOW_BACKEND_STORE_URI="{left}"\n')
    new = make_store(place / "new.db", 1)
    variables = {"MLFLOW_BACKEND_STORE_URI": new, "MLFLOW_DEFAULT_ARTIFACT_ROOT": "/var/lib/mlflow/artifacts"}
    found = ask(variables, previous=str(place / "left.env"))
    assert found["errors"] == []
    assert found["previous"]["holdings"] == {"experiments": 2}
    assert found["database"]["takes"] is False


def test_store_of_an_unknown_kind_names_the_package_that_it_needs(environment):
    environment(MLFLOW_DEFAULT_ARTIFACT_ROOT="s3://somewhere/else")
    wanted = probes.Wanted({}, "mlflow", "mlflow", HOME)
    (said,) = probes.examine({"artifacts": probes.examine_artifacts}, wanted)["errors"]
    assert said.startswith("The artifact store can't be used: ")
    assert "add the package to mlflow_extra_packages" in said
