"""Credentials and buckets that can't work are refused in one sentence, while the server goes on with what it has.

A case of each way in which the role hands them on; whatever else can be wrong with them, and in which words it is said, is
proven in the program's tests.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from evidence import BUCKET, secrets_in, shown
from fixtures import Machine
from google_cloud import Google


@dataclass
class Stage:
    """What a refusal needs beside settings.

    Attributes:
        name: of the service account.
        secrets: of all credentials that were brought.
    """

    name: str
    google: Google
    folder: Path
    secrets: list[str] = field(default_factory=list)

    def text(self, content: str) -> dict:
        """Settings that name a key file with the content, whatever it is."""
        (self.folder / "key.json").write_text(content)
        return {"mlflow_gcp_auth": "key_file", "mlflow_gcp_key_file": str(self.folder / "key.json")}

    def key(self, revoked: bool = False, permissions: tuple[str, ...] = ("create", "get", "delete")) -> dict:
        """Settings with a service account's key."""
        key = self.google.service_account(self.name, permissions)
        self.secrets += secrets_in(key)
        if revoked:
            self.google.revoke(key)
        return self.text(json.dumps(key))

    def fields(self, **changes) -> dict:
        """The same as single settings; ``changes`` replace some of its fields."""
        self.key()
        key = {**json.loads((self.folder / "key.json").read_text()), **changes}
        del key["universe_domain"]
        return {"mlflow_gcp_auth": "key_fields", **{f"mlflow_gcp_key_{name}": value for name, value in key.items()}}

    def revoked_login(self) -> dict:
        """Settings with the login of a user who has logged out."""
        login = self.google.user()
        self.secrets += secrets_in(login)
        self.google.revoke(login)
        self.text(json.dumps(login))
        file = {"mlflow_gcp_user_credentials_file": str(self.folder / "key.json")}
        return {"mlflow_gcp_auth": "user", "mlflow_gcp_project": "stand-in", **file}


# An example in the form of a key, and no key
PEM = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
ELSEWHERE = {"mlflow_gcp_auth": "key_file", "mlflow_gcp_key_file": "/nowhere.json"}
REFUSED: dict[str, tuple[Callable[[Stage], dict], str]] = {
    "no such key file": (lambda stage: ELSEWHERE, "mlflow_gcp_key_file names /nowhere.json, which is a file neither"),
    "fields with a changed key": (
        lambda stage: stage.fields(private_key=PEM),
        "it was cut or changed): set mlflow_gcp_key_private_key",
    ),
    "deleted key": (lambda stage: stage.key(revoked=True), "make a new key and set mlflow_gcp_key_file"),
    "revoked login": (lambda stage: stage.revoked_login(), "run `gcloud auth application-default login` again"),
    "no such bucket": (
        lambda stage: {**stage.key(), "mlflow_artifacts_location": "gs://no-such-bucket"},
        "There is no bucket gs://no-such-bucket: create it, or set mlflow_artifacts_location",
    ),
    "not allowed to delete": (
        lambda stage: stage.key(permissions=("create", "get")),
        "it lacks the permission storage.objects.delete, and gs://mlflow-artifacts/team/tracking/.mlflow-preflight/",
    ),
    "certificate not trusted": (
        lambda stage: {**stage.key(), "mlflow_ca_bundle": "/etc/ssl/certs/ca-certificates.crt"},
        "The certificate of oauth2.googleapis.com is not trusted",
    ),
    "virtual machine without account": (
        lambda stage: {},
        "This virtual machine has no service account, which mlflow_gcp_auth: metadata needs: attach one",
    ),
}


def names(google: Google) -> set[str]:
    return {found["name"] for found in google.objects(BUCKET)}


def test_refused_before_the_server_is_touched(machine: Machine, google: Google, tmp_path: Path):
    before, state = names(google), machine.state()
    stages = {}
    for number, case in enumerate(REFUSED):
        (tmp_path / str(number)).mkdir()
        stages[case] = Stage(f"refused-{number}", google, tmp_path / str(number))
    google.vm(email=None)
    try:
        run = machine.refuses_each((bring(stages[case]), sentence) for case, (bring, sentence) in REFUSED.items())
    finally:
        google.vm()
    secrets = [secret for stage in stages.values() for secret in stage.secrets]
    assert shown(secrets, run.output) == []
    # What could not be deleted again is said.
    assert [name for name in names(google) - before if name not in run.output] == []
    assert machine.state() == state
    assert machine.run("find /run -maxdepth 1 -name 'mlflow-preflight-*'") == ""
    assert machine.is_healthy()
