"""Credentials and buckets that can't work are refused in one sentence, while the server goes on with what it has."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from evidence import BUCKET, provision, secrets_in, shown
from fixtures import Machine
from google_cloud import Google

READ_ONLY = "https://www.googleapis.com/auth/devstorage.read_only"


@dataclass
class Stage:
    """What a refusal needs beside settings; `undo` takes it back.

    Attributes:
        name: of the service account.
        secrets: of all credentials that were brought.
    """

    name: str
    machine: Machine
    google: Google
    folder: Path
    undo: ExitStack
    secrets: list[str] = field(default_factory=list)

    def text(self, content: str) -> dict:
        """Settings that name a key file with the content, whatever it is."""
        (self.folder / "key.json").write_text(content)
        return {"mlflow_gcp_auth": "key_file", "mlflow_gcp_key_file": str(self.folder / "key.json")}

    def key(self, revoked: str = "", permissions: tuple[str, ...] = ("create", "get", "delete"), **changes) -> dict:
        """Settings with a service account's key; ``changes`` replace some of its fields, None leaves one out."""
        key = self.google.service_account(self.name, permissions)
        self.secrets += secrets_in(key)
        if revoked:
            self.google.revoke(key, account=revoked == "account")
        return self.text(json.dumps({name: value for name, value in {**key, **changes}.items() if value is not None}))

    def fields(self, **changes) -> dict:
        """The same as single settings."""
        self.key()
        key = {**json.loads((self.folder / "key.json").read_text()), **changes}
        del key["universe_domain"]
        return {"mlflow_gcp_auth": "key_fields", **{f"mlflow_gcp_key_{name}": value for name, value in key.items()}}

    def login(self, revoked: bool = False, project: str = "stand-in") -> dict:
        """Settings with a user's login."""
        login = self.google.user()
        self.secrets += secrets_in(login)
        if revoked:
            self.google.revoke(login)
        self.text(json.dumps(login))
        file = {"mlflow_gcp_user_credentials_file": str(self.folder / "key.json")}
        return {"mlflow_gcp_auth": "user", "mlflow_gcp_project": project, **file}

    def with_clock(self, offset_seconds: int) -> dict:
        """A key, while Google's clock is ahead of the machine's."""
        self.undo.callback(self.google.clock, 0)
        self.google.clock(offset_seconds)
        return self.key()

    def without(self, host: str) -> None:
        """Let the machine find nobody at one of Google's names."""
        self.undo.callback(self.machine.run, "cp /root/hosts /tmp/hosts && cat /tmp/hosts > /etc/hosts")
        self.machine.run(f"cp /etc/hosts /root/hosts && echo 127.0.0.1 {host} >> /etc/hosts")

    def without_storage(self) -> dict:
        self.without("storage.googleapis.com")
        return self.key()

    def without_metadata(self) -> dict:
        self.without("metadata.google.internal")
        return {}

    def virtual_machine(self, **arguments) -> dict:
        """The machine as another virtual machine of Google Cloud."""
        self.undo.callback(self.google.vm)
        self.google.vm(**arguments)
        return {}


def proxy(address: str) -> dict:
    return {"mlflow_environment": {"HTTPS_PROXY": address}}


NEW_KEY = "make a new key and set mlflow_gcp_key_file"
ROLE = "grant it the role roles/storage.objectUser on the bucket"
LOGIN = "run `gcloud auth application-default login` again"
# An example in the form of a key, and no key
PEM = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
ELSEWHERE = {"mlflow_gcp_auth": "key_file", "mlflow_gcp_key_file": "/nowhere.json"}
NO_LOGIN = {"mlflow_gcp_auth": "user", "mlflow_gcp_project": "p", "mlflow_gcp_user_credentials_file": "/nowhere.json"}

REFUSED: dict[str, tuple[Callable[[Stage], dict], str]] = {
    "no such key file": (lambda stage: ELSEWHERE, "mlflow_gcp_key_file names /nowhere.json, which is a file neither"),
    "no such login": (lambda stage: NO_LOGIN, "mlflow_gcp_user_credentials_file names /nowhere.json, which is a file"),
    "not JSON": (lambda stage: stage.text("no key {"), "is not JSON, and it has to be what Google gave out, unchanged"),
    "not a key": (lambda stage: stage.text('["no", "key"]'), "is JSON but has no `type`; mlflow_gcp_auth: key_file"),
    "a login as a key": (
        lambda stage: {**stage.login(), **stage.text((stage.folder / "key.json").read_text())},
        "has the type `authorized_user`; mlflow_gcp_auth: key_file needs the type `service_account`",
    ),
    "a key as a login": (
        lambda stage: {**stage.login(), "mlflow_gcp_user_credentials_file": stage.key()["mlflow_gcp_key_file"]},
        "has the type `service_account`; mlflow_gcp_auth: user needs the type `authorized_user`",
    ),
    "key without an e-mail": (lambda stage: stage.key(client_email=None), "lacks the field `client_email`"),
    "key that is no key": (lambda stage: stage.key(private_key="gone"), "it does not begin with -----BEGIN PRIVATE"),
    "key that was changed": (
        lambda stage: stage.key(private_key=PEM),
        "it was cut or changed): set mlflow_gcp_key_file",
    ),
    "fields with a changed key": (
        lambda stage: stage.fields(private_key=PEM),
        "it was cut or changed): set mlflow_gcp_key_private_key",
    ),
    "deleted key": (lambda stage: stage.key(revoked="key"), NEW_KEY),
    "deleted account": (lambda stage: stage.key(revoked="account"), "it was deleted or disabled: enable it, or set"),
    "revoked login": (lambda stage: stage.login(revoked=True), LOGIN),
    "no such bucket": (
        lambda stage: {**stage.key(), "mlflow_artifacts_location": "gs://no-such-bucket"},
        "There is no bucket gs://no-such-bucket: create it, or set mlflow_artifacts_location",
    ),
    "not allowed to write": (
        lambda stage: stage.key(permissions=("get", "delete")),
        f"lacks the permission storage.objects.create: {ROLE}",
    ),
    "not allowed to read": (
        lambda stage: stage.key(permissions=("create", "delete")),
        f"lacks the permission storage.objects.get: {ROLE}",
    ),
    "not allowed to delete": (
        lambda stage: stage.key(permissions=("create", "get")),
        "it lacks the permission storage.objects.delete, and gs://mlflow-artifacts/team/tracking/.mlflow-preflight/",
    ),
    "proxy that is not there": (
        lambda stage: {**stage.key(), **proxy("http://127.0.0.1:9")},
        "oauth2.googleapis.com can't be reached (at the proxy: connection refused)",
    ),
    "certificate not trusted": (
        lambda stage: {**stage.key(), "mlflow_ca_bundle": "/etc/ssl/certs/ca-certificates.crt"},
        "The certificate of oauth2.googleapis.com is not trusted",
    ),
    "emulator": (
        lambda stage: {"mlflow_environment": {"STORAGE_EMULATOR_HOST": "http://127.0.0.1:9"}},
        "STORAGE_EMULATOR_HOST is set, so MLflow would send artifacts there and without credentials",
    ),
}
# Where the machine or Google is another one meanwhile.
REFUSED_MEANWHILE: dict[str, tuple[Callable[[Stage], dict], str]] = {
    "clock behind": (lambda stage: stage.with_clock(7200), "seconds behind Google's, so Google refuses what it signs"),
    "clock ahead": (
        lambda stage: stage.with_clock(-7200),
        "seconds ahead of Google's, so Google refuses what it signs",
    ),
    "no way to the storage": (
        lambda stage: stage.without_storage(),
        "storage.googleapis.com can't be reached (connection refused)",
    ),
    "no virtual machine of Google": (
        lambda stage: stage.without_metadata(),
        "No metadata server answers at metadata.google.internal (connection refused)",
    ),
    "virtual machine without account": (
        lambda stage: stage.virtual_machine(email=None),
        "This virtual machine has no service account, which mlflow_gcp_auth: metadata needs: attach one",
    ),
    "virtual machine that may only read": (
        lambda stage: stage.virtual_machine(scopes=(READ_ONLY,)),
        "The access scopes of this virtual machine do not let vm@stand-in.iam.gserviceaccount.com write",
    ),
}


def names(google: Google) -> set[str]:
    return {found["name"] for found in google.objects(BUCKET)}


@pytest.fixture
def stage(machine: Machine, google: Google, tmp_path: Path) -> Iterator[Callable[[str], Stage]]:
    """A function that makes a stage, by the name of its service account; after the test the machine is untouched."""
    before = machine.state()
    with ExitStack() as undo:

        def make(name: str) -> Stage:
            (tmp_path / name).mkdir()
            return Stage(name, machine, google, tmp_path / name, undo)

        yield make
    assert machine.state() == before
    assert machine.run("find /run -maxdepth 1 -name 'mlflow-preflight-*'") == ""
    assert machine.is_healthy()


def has_nothing_more(google: Google, before: set[str], output: str, *stages: Stage) -> bool:
    """Whether no secret is said, and all that is left in the bucket is: what could not be deleted again."""
    secrets = [secret for stage in stages for secret in stage.secrets]
    return shown(secrets, output) == [] and all(name in output for name in names(google) - before)


def test_refused_before_the_server_is_touched(machine, google, stage):
    before = names(google)
    stages = {case: stage(f"refused-{number}") for number, case in enumerate(REFUSED)}
    run = machine.refuses_each((bring(stages[case]), sentence) for case, (bring, sentence) in REFUSED.items())
    assert has_nothing_more(google, before, run.output, *stages.values())


@pytest.mark.parametrize("bring, sentence", REFUSED_MEANWHILE.values(), ids=REFUSED_MEANWHILE.keys())
def test_refused_where_something_is_wrong_meanwhile(machine, google, stage, bring, sentence):
    before, refused = names(google), stage("refused")
    run = provision(machine, refused.folder, bring(refused))
    assert run.status != 0, "site.yml accepted what it should refuse"
    assert sentence in run.said
    assert has_nothing_more(google, before, run.output, refused)
