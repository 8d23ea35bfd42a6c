"""Each kind of credentials: what a client sends ends in the bucket, by them alone, and nobody sees them."""

import copy
import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import machine as machines
import pytest
import testinfra.host
from evidence import (
    BUCKET,
    CREDENTIALS_FILE,
    EXCHANGE,
    FOLDER,
    grants,
    provision,
    secrets_in,
    shown,
    to_storage,
)
from fixtures import Machine, Run
from google_cloud import Google
from secrecy import watched_command_lines

VM = "vm@stand-in.iam.gserviceaccount.com"
CANARY = "canary-in-a-command-line"
# A release takes long to read; what was put into it before this scenario began can hold none of its secrets.
WORLD_READABLE = "find /etc /opt/mlflow /var /tmp /root /run -xdev -type f -perm -004 -mmin -120"


@dataclass
class Mode:
    """One way to give the server credentials.

    Attributes:
        settings: of the role.
        grant, identity: what Google's records should show.
        credentials: the content of the file, where there is one.
        arguments: of ansible-playbook.
    """

    settings: dict
    grant: str
    identity: str
    credentials: dict = field(default_factory=dict)
    arguments: list[str] = field(default_factory=list)


@dataclass
class Provisioned:
    """A mode, the run of site.yml that brought it about, and command lines with a secret during that run."""

    mode: Mode
    run: Run
    command_lines: list[str]


def metadata(machine: Machine, google: Google, folder: Path) -> Mode:
    return Mode({"mlflow_gcp_auth": "metadata"}, "metadata", VM)


def key_file(google: Google, account: str, path: str) -> Mode:
    key = google.service_account(account)
    return Mode({"mlflow_gcp_auth": "key_file", "mlflow_gcp_key_file": path}, "jwt-bearer", key["client_email"], key)


def vaulted_key(machine: Machine, google: Google, folder: Path) -> Mode:
    mode = key_file(google, "vaulted", str(folder / "key.json"))
    (folder / "key.json").write_text(json.dumps(mode.credentials, indent=2))
    (folder / "password").write_text("a password of this test's own")
    vault = ["--vault-password-file", str(folder / "password")]
    subprocess.run(["ansible-vault", "encrypt", *vault, str(folder / "key.json")], check=True, capture_output=True)
    assert (folder / "key.json").read_text().startswith("$ANSIBLE_VAULT;")
    mode.arguments = vault
    return mode


def key_on_the_machine(machine: Machine, google: Google, folder: Path, account: str = "on-the-machine") -> Mode:
    mode = key_file(google, account, "/root/key.json")
    write = "umask 077 && cat > /root/key.json"
    machines.docker("exec", "--interactive", machine.name, "sh", "-c", write, input=json.dumps(mode.credentials))
    return mode


def key_fields(machine: Machine, google: Google, folder: Path) -> Mode:
    key = google.service_account("fields")
    fields = {f"mlflow_gcp_key_{name}": value for name, value in key.items() if name != "universe_domain"}
    return Mode({"mlflow_gcp_auth": "key_fields", **fields}, "jwt-bearer", key["client_email"], key)


def user(machine: Machine, google: Google, folder: Path) -> Mode:
    login = google.user("ann@example.com")
    (folder / "login.json").write_text(json.dumps(login))
    settings = {"mlflow_gcp_auth": "user", "mlflow_gcp_project": "stand-in"}
    settings["mlflow_gcp_user_credentials_file"] = str(folder / "login.json")
    return Mode(settings, "refresh_token", "ann@example.com", login)


# A private key on one line is in the scenario compose.
MODES: list[Callable[[Machine, Google, Path], Mode]] = [metadata, vaulted_key, key_fields, user, key_on_the_machine]


def named(mode: Callable) -> str:
    return mode.__name__


@pytest.fixture(scope="module", params=MODES, ids=named)
def provisioned(
    request: pytest.FixtureRequest, host: testinfra.host.Host, tmp_path_factory: pytest.TempPathFactory
) -> Provisioned:
    """The machine in one of the modes; all that was said and done on the way there is kept for the tests."""
    machine, folder = Machine(host.backend.host), tmp_path_factory.mktemp("mode")
    google = Google(machine.name)
    mode = request.param(machine, google, folder)
    google.forget_requests()
    with watched_command_lines(machine.name, [*secrets_in(mode.credentials), CANARY], control_node=True) as seen:
        run = provision(machine, folder, mode.settings, *mode.arguments, "-vvv", "--diff")
        machine.run(f"sleep 1 && : {CANARY}")
    assert run.status == 0, run.output[-6000:]
    return Provisioned(mode, run, copy.copy(seen))


def test_artifacts_go_through_the_server_to_the_folder_in_the_bucket(machine, provisioned):
    made = machine.client(EXCHANGE)
    assert made["artifact_uri"].startswith("mlflow-artifacts:/")
    place = f"{FOLDER}/{made['experiment_id']}/{made['run_id']}/artifacts/"
    objects = {found["name"]: found["md5Hash"] for found in Google(machine.name).objects(BUCKET)}
    assert all(name.startswith(f"{FOLDER}/") for name in objects)
    mine = {name.removeprefix(place): md5 for name, md5 in objects.items() if name.startswith(place)}
    assert mine == made["files"]


def test_google_sees_these_credentials_and_no_others(machine, provisioned):
    """Of the whole run of site.yml, of its preflight, and of the client's exchange."""
    google = Google(machine.name)
    assert grants(google) == {(provisioned.mode.grant, provisioned.mode.identity)}
    requests = to_storage(google)
    assert {request["method"] for request in requests} >= {"POST", "GET", "DELETE"}
    assert all(request["authorized"] for request in requests)
    assert {request["identity"] for request in requests} == {provisioned.mode.identity}
    asked_for_metadata = [request for request in google.requests() if "metadata_flavor" in request]
    assert {request["metadata_flavor"] for request in asked_for_metadata} <= {"Google"}


def test_no_verbosity_shows_a_secret(machine, provisioned):
    assert "TASK [mlops.mlflow.mlflow : configure" in provisioned.run.output
    assert shown(secrets_in(provisioned.mode.credentials), provisioned.run.output) == []


def test_no_command_line_has_a_secret_even_for_a_moment(machine, provisioned):
    assert provisioned.command_lines
    assert [line for line in provisioned.command_lines if CANARY not in line] == []


def test_no_secret_in_journal_or_unit(machine, provisioned):
    text = machine.run("journalctl --no-pager --output=export")
    text += machine.run("systemctl show mlflow.service mlflow.socket")
    assert shown(secrets_in(provisioned.mode.credentials), text) == []


def test_service_alone_can_read_the_credentials(machine, provisioned):
    secrets = secrets_in(provisioned.mode.credentials)
    file = machine.host.file(CREDENTIALS_FILE)
    assert file.exists is bool(secrets)
    if secrets:
        assert (file.user, file.group, file.mode) == ("root", "mlflow", 0o640)
        assert json.loads(file.content_string).items() >= without_universe(provisioned.mode.credentials).items()
        search = f"{WORLD_READABLE} -print0 | xargs -0 grep -lF -f /root/secrets"
        lines = "\n".join(secrets) + "\n"
        write = "umask 077 && cat > /root/secrets"
        machines.docker("exec", "--interactive", machine.name, "sh", "-c", write, input=lines)
        assert machine.run(f"grep -lF -f /root/secrets {CREDENTIALS_FILE}") == CREDENTIALS_FILE
        assert machine.host.run(search).stdout == ""
        machine.run("rm /root/secrets")


def without_universe(credentials: dict) -> dict:
    """Key fields have no setting for Google's own universe, which is the default."""
    return {name: value for name, value in credentials.items() if name != "universe_domain"}


@pytest.mark.parametrize("provisioned", [key_on_the_machine], ids=named, indirect=True)
def test_second_run_changes_nothing(machine, provisioned, tmp_path):
    before = machine.state()
    again = provision(machine, tmp_path, provisioned.mode.settings, *provisioned.mode.arguments)
    assert (again.status, again.changed) == (0, 0)
    assert machine.state() == before


@pytest.mark.parametrize("provisioned", [key_on_the_machine], ids=named, indirect=True)
def test_new_key_is_taken_up_and_goes_away_when_the_machine_has_an_account_of_its_own(
    machine, google, provisioned, tmp_path
):
    """A key file with another content, at the same path."""
    successor = key_on_the_machine(machine, google, tmp_path, "successor")
    assert successor.settings == provisioned.mode.settings
    done = provision(machine, tmp_path, successor.settings)
    assert done.status == 0, done.output[-6000:]
    google.revoke(provisioned.mode.credentials)
    google.forget_requests()
    machine.client(EXCHANGE)
    assert {request["identity"] for request in to_storage(google)} == {successor.identity}

    machine.converge()
    assert not machine.host.file(CREDENTIALS_FILE).exists
    left = machine.run("ls -A /etc/mlflow").split()
    assert [name for name in left if not name.endswith((".env", ".lock"))] == []
    google.forget_requests()
    machine.client(EXCHANGE)
    assert {request["identity"] for request in to_storage(google)} == {VM}
