"""Each kind of Google credentials that is wrong, and each thing that Google refuses, is one sentence; a good one is used."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from conftest import Google
from google_cloud import CA_BUNDLE
from mlflow_service.stores import probes

VM = "vm@stand-in.iam.gserviceaccount.com"
READ_ONLY = "https://www.googleapis.com/auth/devstorage.read_only"
ROLE = "grant it the role roles/storage.objectUser on the bucket"
# An example in the form of a key, and no key
PEM = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
ALL = ("create", "get", "delete")


@dataclass
class Stage:
    """The variables of a service, with what it is to meet at Google; see the methods.

    Attributes:
        auth: ``mlflow_gcp_auth``.
        secrets: of all credentials that were made.
    """

    google: Google
    folder: Path
    hosts: object
    auth: str = "metadata"
    bucket: str = "mlflow-artifacts"
    variables: dict[str, str] = field(default_factory=dict)
    secrets: list[str] = field(default_factory=list)

    def text(self, content: str, auth: str = "key_file") -> "Stage":
        """A credentials file with the content, whatever it is."""
        (self.folder / "google.json").write_text(content)
        self.auth = auth
        return self.has(GOOGLE_APPLICATION_CREDENTIALS=str(self.folder / "google.json"))

    def has(self, **variables: str) -> "Stage":
        self.variables |= variables
        return self

    def at(self, bucket: str) -> "Stage":
        self.bucket = bucket
        return self

    def key(self, auth: str = "key_file", permissions: tuple[str, ...] = ALL, revoked: str = "", **changes) -> "Stage":
        """A service account's key; `changes` replace some of its fields, None leaves one out."""
        key = self.google.service_account("tested", permissions)
        self.secrets += [key["private_key_id"], *key["private_key"].splitlines()[1:-1]]
        if revoked:
            self.google.revoke(key, account=revoked == "account")
        fields = {name: value for name, value in {**key, **changes}.items() if value is not None}
        return self.text(json.dumps(fields), auth)

    def login(self, auth: str = "user", revoked: bool = False, **changes) -> "Stage":
        """A user's login."""
        login = self.google.user()
        self.secrets += [login["refresh_token"], login["client_secret"]]
        if revoked:
            self.google.revoke(login)
        return self.text(json.dumps({**login, **changes}), auth).has(GOOGLE_CLOUD_PROJECT="stand-in")

    def names(self) -> set[str]:
        """Of all that the bucket of the tests has."""
        return {found["name"] for found in self.google.objects("mlflow-artifacts")}

    def clock(self, offset_seconds: int) -> "Stage":
        """Google's clock is so far ahead of the machine's."""
        self.google.clock(offset_seconds)
        return self

    def vm(self, **account) -> "Stage":
        """The machine is another virtual machine of Google Cloud."""
        self.google.vm(**account)
        return self

    def without(self, host: str) -> "Stage":
        """Nobody answers at one of Google's names."""
        self.hosts(host)
        return self


REFUSED = {
    "not JSON": (lambda it: it.text("no key {"), "is not JSON, and it has to be what Google gave out, unchanged"),
    "not a key": (lambda it: it.text('["no", "key"]'), "is JSON but has no `type`; mlflow_gcp_auth: key_file"),
    "a login as a key": (
        lambda it: it.login(auth="key_file"),
        "has the type `authorized_user`; mlflow_gcp_auth: key_file needs the type `service_account`",
    ),
    "a key as a login": (
        lambda it: it.key(auth="user").has(GOOGLE_CLOUD_PROJECT="p"),
        "has the type `service_account`; mlflow_gcp_auth: user needs the type `authorized_user`",
    ),
    "a login without a project": (
        lambda it: it.login().has(GOOGLE_CLOUD_PROJECT=""),
        "is a user's login, which belongs to no project, and MLflow needs one: set mlflow_gcp_project",
    ),
    "a key without a project": (lambda it: it.key(project_id=None), "lacks the field `project_id`"),
    "key without an e-mail": (lambda it: it.key(client_email=None), "lacks the field `client_email`"),
    "key that is no key": (lambda it: it.key(private_key="gone"), "it does not begin with -----BEGIN PRIVATE"),
    "key on one line": (
        lambda it: it.key(private_key=PEM.strip().replace("\n", "\\n")),
        "its line breaks are missing, `\\n` stands there as two characters): set mlflow_gcp_key_file",
    ),
    "key that was changed": (lambda it: it.key(private_key=PEM), "it was cut or changed): set mlflow_gcp_key_file"),
    "fields with a changed key": (
        lambda it: it.key("key_fields", private_key=PEM),
        "it was cut or changed): set mlflow_gcp_key_private_key",
    ),
    "deleted key": (lambda it: it.key(revoked="key"), "make a new key and set mlflow_gcp_key_file"),
    "deleted account": (lambda it: it.key(revoked="account"), "it was deleted or disabled: enable it, or set"),
    "revoked login": (lambda it: it.login(revoked=True), "run `gcloud auth application-default login` again"),
    "login of a client that is not known": (
        lambda it: it.login(client_id="none"),
        "Google does not know the client of this login",
    ),
    "no such bucket": (
        lambda it: it.key().at("no-such-bucket"),
        "There is no bucket gs://no-such-bucket: create it, or set mlflow_artifacts_location",
    ),
    "not allowed to write": (
        lambda it: it.key(permissions=("get", "delete")),
        f"lacks the permission storage.objects.create: {ROLE}",
    ),
    "not allowed to read": (
        lambda it: it.key(permissions=("create", "delete")),
        f"lacks the permission storage.objects.get: {ROLE}",
    ),
    "not allowed to delete": (
        lambda it: it.key(permissions=("create", "get")),
        "it lacks the permission storage.objects.delete, and gs://mlflow-artifacts/team/.mlflow-preflight/",
    ),
    "clock behind": (lambda it: it.key().clock(7200), "seconds behind Google's, so Google refuses what it signs"),
    "clock ahead": (lambda it: it.key().clock(-7200), "seconds ahead of Google's, so Google refuses what it signs"),
    "no way to the storage": (
        lambda it: it.key().without("storage.googleapis.com"),
        "storage.googleapis.com can't be reached (connection refused)",
    ),
    "no way to tokens": (
        lambda it: it.key().without("oauth2.googleapis.com"),
        "oauth2.googleapis.com can't be reached (connection refused): let this machine reach it on port 443",
    ),
    "proxy that is not there": (
        lambda it: it.key().has(HTTPS_PROXY="http://127.0.0.1:9"),
        "oauth2.googleapis.com can't be reached (at the proxy: connection refused)",
    ),
    "certificate not trusted": (
        lambda it: it.key().has(REQUESTS_CA_BUNDLE="/etc/ssl/certs/ca-certificates.crt"),
        "The certificate of oauth2.googleapis.com is not trusted",
    ),
    "emulator": (
        lambda it: it.has(STORAGE_EMULATOR_HOST="http://127.0.0.1:9"),
        "STORAGE_EMULATOR_HOST is set, so MLflow would send artifacts there and without credentials",
    ),
    "no virtual machine of Google": (
        lambda it: it.without("metadata.google.internal"),
        "No metadata server answers at metadata.google.internal (connection refused)",
    ),
    "virtual machine without account": (
        lambda it: it.vm(email=None),
        "This virtual machine has no service account, which mlflow_gcp_auth: metadata needs: attach one",
    ),
    "virtual machine that may only read": (
        lambda it: it.vm(scopes=(READ_ONLY,)),
        f"The access scopes of this virtual machine do not let {VM} write to Cloud Storage",
    ),
    "virtual machine that may not write": (
        lambda it: it.vm(permissions=("get",)),
        f"{VM} may not write objects in gs://mlflow-artifacts, it lacks the permission storage.objects.create",
    ),
}
GOOD = {
    "metadata": (lambda it: it, VM),
    "key_file": (lambda it: it.key(), "tested@stand-in.iam.gserviceaccount.com"),
    "key_fields": (lambda it: it.key("key_fields"), "tested@stand-in.iam.gserviceaccount.com"),
    "user": (lambda it: it.login(), "user@example.com"),
}


@pytest.fixture
def stage(google: Google, bucket: str, hosts, tmp_path: Path, environment) -> Stage:
    stage = Stage(google, tmp_path, hosts, bucket=bucket)
    stage.has(MLFLOW_DEFAULT_ARTIFACT_ROOT="", REQUESTS_CA_BUNDLE=CA_BUNDLE)
    return stage


def examine(stage: Stage, environment, write: bool = True) -> dict:
    """Ask the artifact store as the service will."""
    variables = {**stage.variables, "MLFLOW_ARTIFACTS_DESTINATION": f"gs://{stage.bucket}/team"}
    environment(**{name: value for name, value in variables.items() if value})
    wanted = probes.Wanted({}, "mlflow", "mlflow", "/var/lib/mlflow", google_auth=stage.auth, write=write)
    return probes.examine({"artifacts": probes.examine_artifacts}, wanted)


@pytest.mark.parametrize("bring, sentence", REFUSED.values(), ids=REFUSED)
def test_store_that_can_not_be_used_is_refused_in_a_sentence(stage, environment, bring, sentence):
    before = stage.names()
    (said,) = examine(bring(stage), environment)["errors"]
    assert sentence in said
    assert [secret for secret in stage.secrets if secret in said] == []
    # What could not be deleted again is said.
    assert [name for name in stage.names() - before if name not in said] == []


@pytest.mark.parametrize("bring, identity", GOOD.values(), ids=GOOD)
def test_credentials_that_are_good_are_the_ones_that_google_sees(stage, environment, bring, identity):
    before = stage.names()
    bring(stage)
    stage.google.forget_requests()
    assert examine(stage, environment)["errors"] == []
    asked = stage.google.about_objects()
    assert {request["method"] for request in asked} == {"POST", "GET", "DELETE"}
    assert {request["identity"] for request in asked} == {identity}
    assert stage.names() == before


def test_look_without_writing_leaves_the_bucket_alone(stage, environment, google):
    """As check mode does: a token shows that the credentials are good."""
    stage.key()
    google.forget_requests()
    assert examine(stage, environment, write=False)["errors"] == []
    assert google.about_objects() == []


def test_credentials_of_somebody_elses_are_not_taken_in_silence(stage, environment):
    """MLflow would take what its own account has from gcloud, where the settings ask for the virtual machine's."""
    stage.login()
    stage.auth = "metadata"
    (said,) = examine(stage, environment)["errors"]
    assert "MLflow would take credentials from GOOGLE_APPLICATION_CREDENTIALS" in said


def test_missing_file_is_refused(stage, environment):
    stage.auth = "key_file"
    (said,) = examine(stage.has(GOOGLE_APPLICATION_CREDENTIALS="/nowhere.json"), environment)["errors"]
    assert "/nowhere.json" in said and said.endswith(".")


def test_sentence_about_backups_names_their_setting(stage, environment, google):
    stage.has(MLFLOW_ARTIFACTS_DESTINATION="")
    environment(**{name: value for name, value in stage.variables.items() if value})
    backups = {"location": "gs://no-such-bucket/backups", "google_auth": "metadata"}
    wanted = probes.Wanted({}, "mlflow", "mlflow", "/var/lib/mlflow", backups=backups)
    found = probes.examine({"backups": probes.examine_backups}, wanted)
    assert found["errors"] == [
        "There is no bucket gs://no-such-bucket: create it, or set mlflow_backup_location to the one that exists."
    ]
