"""The .env lookup: what the Compose service was told is what the role is told."""

import json
from pathlib import Path

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.parsing.vault import VaultLib, VaultSecret
from ansible.plugins.loader import lookup_loader

PLUGINS = Path(__file__).resolve().parents[1] / "lookup"
NOTHING = {"settings": {}, "unknown": [], "error": ""}
# An example in the form of a key, and no key
KEY = "-----BEGIN PRIVATE KEY-----\nMIIE+/=\n-----END PRIVATE KEY-----\n"


def look_up(path, secret=None):
    """The lookup's one result, found and run as Ansible does."""
    lookup_loader.add_directory(str(PLUGINS))
    loader = DataLoader()
    if secret:
        loader.set_vault_secrets([("default", VaultSecret(secret))])
    [result] = lookup_loader.get("mlflow_dotenv", loader=loader, templar=None).run([str(path)], variables={})
    return result


@pytest.fixture
def read(tmp_path):
    """A function that writes a .env and returns what the lookup makes of it."""

    def run(content: str | bytes):
        file = tmp_path / ".env"
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return look_up(file)

    return run


@pytest.fixture
def settings(read):
    return lambda content: read(content)["settings"]


@pytest.fixture
def refusal(read):
    """A function that returns the sentence by which a .env is refused."""

    def run(content: str | bytes) -> str:
        refused = read(content)
        assert refused["settings"] == {}
        return refused["error"]

    return run


def test_no_path_sets_nothing():
    assert look_up("") == NOTHING


def test_empty_file_sets_nothing(read):
    assert read("\n# nothing\n\n") == NOTHING


def test_whole_file_of_the_old_service(read):
    assert read(
        """
        # MLflow
        MLFLOW_TRACKING_PORT=5001
        MLFLOW_HOST=mlflow-service
        MLFLOW_BUCKET_LOCATION=gs://bucket
        MLFLOW_FOLDER_LOCATION=/mlflow/artifacts/
        POSTGRES_HOST=db.example.org
        POSTGRES_PORT=5433
        POSTGRES_DB=tracking
        POSTGRES_USER=me
        POSTGRES_PASSWORD='p$a${s}s#w"d'
        GCP_PROJECT=project-1
        COMPOSE_PROJECT_NAME=mlflow
        ANOTHER=1
        WITHOUT_A_VALUE
        """
    ) == {
        "settings": {
            "mlflow_port": 5001,
            "mlflow_host": "0.0.0.0",
            "mlflow_allowed_hosts": ["mlflow-service"],
            "mlflow_artifacts_location": "gs://bucket",
            "mlflow_artifacts_folder": "mlflow/artifacts",
            "mlflow_backend_store": "postgresql",
            "mlflow_postgres_host": "db.example.org",
            "mlflow_postgres_port": 5433,
            "mlflow_postgres_database": "tracking",
            "mlflow_postgres_user": "me",
            "mlflow_postgres_password": 'p$a${s}s#w"d',
            "mlflow_gcp_project": "project-1",
        },
        "unknown": ["ANOTHER", "COMPOSE_PROJECT_NAME"],
        "error": "",
    }


def test_empty_values_count_as_not_given(read):
    assert (
        read("MLFLOW_TRACKING_PORT=\nMLFLOW_HOST=''\nPOSTGRES_HOST=\"\"\nMLFLOW_FOLDER_LOCATION=/\nGCP_PROJECT\n")
        == NOTHING
    )


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("GCP_PROJECT=a b # comment", "a b"),
        ("GCP_PROJECT=a#b", "a#b"),
        ("GCP_PROJECT='a # b'", "a # b"),
        ('GCP_PROJECT="a # b"', "a # b"),
        ("export GCP_PROJECT=a", "a"),
        ("  GCP_PROJECT = a  ", "a"),
        ('GCP_PROJECT="a\nb"', "a\nb"),
        ("GCP_PROJECT=ü🚀", "ü🚀"),
        ("GCP_PROJECT=a\nGCP_PROJECT=b", "b"),
        ("GCP_PROJECT={{ 1 + 1 }}", "{{ 1 + 1 }}"),
    ],
)
def test_file_is_read_as_compose_reads_it(settings, line, value):
    assert settings(line) == {"mlflow_gcp_project": value}


def test_file_from_windows_reads_like_any_other(settings):
    assert settings(b"\xef\xbb\xbfPOSTGRES_USER=me\r\nGCP_PROJECT='a'\r\n# end\r\n") == {
        "mlflow_postgres_user": "me",
        "mlflow_gcp_project": "a",
    }


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("postgresql://${U}:${P}@h/d", "postgresql://me:a$b@h/d"),
        ('"postgresql://$U@h/${D:-d}"', "postgresql://me@h/d"),
        ("'postgresql://${U}:$P@h'", "postgresql://${U}:$P@h"),
        ("a$$b", "a$b"),
        ("a$other%$1$", "a$other%$1$"),
    ],
)
def test_variables_are_put_in_but_not_in_single_quotes(settings, written, value):
    found = settings(f"U=me\nP='a$b'\nMLFLOW_POSTGRES_CONNECTION_STRING={written}\n")
    assert found == {"mlflow_postgres_connection_string": value, "mlflow_backend_store": "postgresql"}


def test_variable_that_nothing_sets_is_an_error(refusal):
    said = refusal("\n\nPOSTGRES_PASSWORD=geheim${word}\n")
    assert "line 3" in said
    assert "single quotes" in said
    assert "geheim" not in said
    assert "word" not in said


@pytest.mark.parametrize("name", ["MLFLOW_TRACKING_PORT", "POSTGRES_PORT"])
@pytest.mark.parametrize("value", ["http", "0", "65536", "5001/tcp", "-1", "٣"])
def test_port_that_is_none_is_refused_without_its_value(refusal, name, value):
    said = refusal(f"{name}={value}-geheim" if value == "http" else f"{name}={value}")
    assert f"{name} is no port number" in said
    assert "geheim" not in said


@pytest.mark.parametrize(
    ("value", "host", "allowed"),
    [
        ("10.0.0.5", "10.0.0.5", None),
        ("0.0.0.0", "0.0.0.0", None),
        ("::1", "::1", None),
        ("[fd00::5]", "fd00::5", None),
        ("localhost", "127.0.0.1", None),
        ("mlflow-service", "0.0.0.0", ["mlflow-service"]),
        ("mlflow-service:5001", "0.0.0.0", ["mlflow-service"]),
        ("http://mlflow.example.org:5001/", "0.0.0.0", ["mlflow.example.org"]),
        ("https://10.0.0.5", "0.0.0.0", ["10.0.0.5"]),
        ("http://[fd00::5]:5001", "0.0.0.0", ["[fd00::5]"]),
    ],
)
def test_address_is_listened_on_and_name_is_allowed(settings, value, host, allowed):
    expected = {"mlflow_host": host, **({"mlflow_allowed_hosts": allowed} if allowed else {})}
    assert settings(f"MLFLOW_HOST={value}") == expected


def test_host_that_is_none_is_refused(refusal):
    assert "MLFLOW_HOST is neither an address nor a host name" in refusal("MLFLOW_HOST=http://")


@pytest.mark.parametrize(
    ("value", "location"),
    [
        ("bucket", "gs://bucket"),
        ("bucket/", "gs://bucket"),
        ("gs://b", "gs://b"),
        ("s3://b/c", "s3://b/c"),
        ("/srv/a", "/srv/a"),
    ],
)
def test_bare_bucket_is_one_of_google(settings, value, location):
    assert settings(f"MLFLOW_BUCKET_LOCATION={value}") == {"mlflow_artifacts_location": location}


def test_postgres_settings_alone_do_not_choose_it(settings):
    assert settings("POSTGRES_USER=me") == {"mlflow_postgres_user": "me"}


FIELDS = {
    "TYPE": "service_account",
    "PROJECT_ID": "p",
    "PRIVATE_KEY_ID": "abc",
    "CLIENT_EMAIL": "a@b.example",
    "CLIENT_ID": "1",
    "AUTH_URI": "https://a.example",
    "TOKEN_URI": "https://t.example",
    "AUTH_PROVIDER_X509_CERT_URL": "https://x.example",
    "CLIENT_X509_CERT_URL": "https://c.example",
}


ONE_LINE = KEY.replace("\n", "\\n")


@pytest.mark.parametrize("written", [ONE_LINE, f'"{ONE_LINE}"', f"'{ONE_LINE}'", f'"{KEY}"'])
def test_fields_of_a_key_win_over_its_file(settings, written):
    lines = [f"GOOGLE_APPLICATION_CREDENTIALS_{name}={value}" for name, value in FIELDS.items()]
    lines += ["GOOGLE_APPLICATION_CREDENTIALS=/app/key.json", f"GOOGLE_APPLICATION_CREDENTIALS_PRIVATE_KEY={written}"]
    expected = {f"mlflow_gcp_key_{name.lower()}": value for name, value in FIELDS.items()}
    assert settings("\n".join(lines)) == {
        **expected,
        "mlflow_gcp_key_private_key": KEY,
        "mlflow_gcp_auth": "key_fields",
    }


def test_fields_without_a_private_key_choose_nothing(settings):
    assert settings("GOOGLE_APPLICATION_CREDENTIALS_PROJECT_ID=p") == {"mlflow_gcp_key_project_id": "p"}


@pytest.mark.parametrize("content", [json.dumps({"type": "service_account"}), "$ANSIBLE_VAULT;1.1;AES256\n00", "[]"])
def test_key_file_beside_the_env_is_found(settings, tmp_path, content):
    key = tmp_path / "secrets" / "key.json"
    key.parent.mkdir()
    key.write_text(content)
    found = settings("GOOGLE_APPLICATION_CREDENTIALS=./secrets/key.json")
    assert found == {"mlflow_gcp_auth": "key_file", "mlflow_gcp_key_file": str(key)}


def test_key_file_of_the_container_keeps_its_path(settings):
    found = settings("GOOGLE_APPLICATION_CREDENTIALS=/app/secrets/key.json")
    assert found == {"mlflow_gcp_auth": "key_file", "mlflow_gcp_key_file": "/app/secrets/key.json"}


def test_credentials_of_a_person_are_known_as_such(settings, tmp_path):
    (tmp_path / "adc.json").write_text(json.dumps({"type": "authorized_user"}))
    found = settings("GOOGLE_APPLICATION_CREDENTIALS=adc.json")
    assert found == {"mlflow_gcp_auth": "user", "mlflow_gcp_user_credentials_file": str(tmp_path / "adc.json")}


def test_relative_path_starts_where_ansible_was_started(tmp_path, monkeypatch):
    (tmp_path / "old.env").write_text("GCP_PROJECT=p")
    monkeypatch.chdir(tmp_path)
    assert look_up("old.env")["settings"] == {"mlflow_gcp_project": "p"}


def test_encrypted_file_is_read_with_the_password_only(tmp_path):
    secret = VaultSecret(b"open sesame")
    secret.load()
    file = tmp_path / ".env"
    file.write_bytes(VaultLib([("default", secret)]).encrypt("GCP_PROJECT=p", secret=secret))
    assert look_up(file, b"open sesame")["settings"] == {"mlflow_gcp_project": "p"}
    for wrong in (None, b"other"):
        assert "can't be read" in look_up(file, wrong)["error"]


def test_missing_file_is_named(tmp_path):
    said = f"mlflow_dotenv names {tmp_path}/gone.env, which is no file on the control node."
    assert look_up(tmp_path / "gone.env")["error"] == said


def test_folder_is_no_file(tmp_path):
    assert "can't be read" in look_up(tmp_path)["error"]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("A=1\n\n  geheim geheim\nB=2\n", 3),
        ("A=1\nPOSTGRES_PASSWORD='geheim\nB=2\n", 2),
        ('A=1\r\nB="geheim\r\n', 2),
        ("A=1\ngeheim/+==\n", 2),
    ],
)
def test_line_that_is_none_is_named_without_its_content(refusal, content, line):
    said = refusal(content)
    assert f"line {line} " in said
    assert "geheim" not in said


def test_file_that_is_no_text_is_refused(refusal):
    assert "not UTF-8" in refusal(b"GCP_PROJECT=\xff\xfe")
