"""Filters: what systemd, a shell and MLflow read is what was given."""

import fnmatch
import subprocess

import mlflow as filters
import pytest

ODD = [
    "plain",
    "p@ss:w/rd#%?&x",
    'with "quotes" and $HOME and `ls`',
    "back\\slash\\",
    " spaces ",
    "ñ'",
    "two\nlines",
    "",
]


@pytest.mark.parametrize("value", ODD)
def test_shell_reads_an_environment_file_letter_by_letter(value, tmp_path):
    file = tmp_path / "a.env"
    file.write_text(filters.env_line(value, "NAME") + "\n")
    read = subprocess.run(["sh", "-c", f'. {file}; printf %s "$NAME"'], capture_output=True, text=True, check=True)
    assert read.stdout == value


def test_numbers_and_booleans_are_written_as_text():
    assert filters.env_line(5001, "MLFLOW_PORT") == 'MLFLOW_PORT="5001"'


def test_word_of_a_command_line_is_quoted_for_systemd():
    assert filters.systemd_argument('50% of $HOME "x" \\') == '"50%% of $$HOME \\"x\\" \\\\"'


def accepted(patterns, host):
    """MLflow's own comparison, from mlflow/server/security_utils.py."""
    return any(fnmatch.fnmatch(host, pattern) if "*" in pattern else host == pattern for pattern in patterns)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "[fd00::5]", "mlflow-service", "a.example.com"])
def test_name_is_accepted_with_and_without_a_port(host):
    patterns = filters.allowed_hosts(
        ["localhost", "127.0.0.1", "[::1]", "[fd00::5]", "mlflow-service", "*.example.com"]
    )
    assert accepted(patterns, host)
    assert accepted(patterns, f"{host}:5001")


@pytest.mark.parametrize("host", ["evil.com", "localhost.evil.com", "xlocalhost", ":5001", "::1"])
def test_other_names_are_not_accepted(host):
    assert not accepted(filters.allowed_hosts(["localhost", "127.0.0.1", "[::1]"]), host)


def test_name_with_a_port_is_accepted_at_that_port_only():
    patterns = filters.allowed_hosts(["a.example.com:8443"])
    assert patterns == ["a.example.com:8443"]


def test_every_name_stands_once():
    assert filters.allowed_hosts(["*", "a", "a"]) == ["*", "a", "a:*"]


@pytest.mark.parametrize(
    "given, expected",
    [
        ("postgresql://u:p%40s@h:5433/d?sslmode=require", "postgresql+psycopg2://u:p%40s@h:5433/d?sslmode=require"),
        ("postgres://h/d", "postgresql+psycopg2://h/d"),
        ("postgresql+psycopg2://h/d", "postgresql+psycopg2://h/d"),
        ("", ""),
    ],
)
def test_connection_string_names_the_installed_driver_and_keeps_the_rest(given, expected):
    assert filters.postgres_uri(given) == expected


SETTINGS = {"host": "db1", "port": 5432, "database": "mlflow"}


@pytest.mark.parametrize(
    "uri, parts, name",
    [
        ("sqlite:////var/lib/mlflow/mlflow.db", SETTINGS, "sqlite:////var/lib/mlflow/mlflow.db"),
        ("postgresql+psycopg2://?keepalives_idle=30", SETTINGS, "postgresql://db1:5432/mlflow"),
        ("postgresql+psycopg2://u:p%40@h:5433/d?sslmode=require", SETTINGS, "postgresql://h:5433/d"),
        (
            "postgresql+psycopg2://u:p@/d?host=/cloudsql/p:r:i",
            SETTINGS,
            "postgresql:///d?host=/cloudsql/p:r:i&port=5432",
        ),
        (
            "postgresql+psycopg2://?keepalives_idle=30",
            {**SETTINGS, "host": "/var/run/postgresql"},
            "postgresql:///mlflow?host=/var/run/postgresql&port=5432",
        ),
    ],
)
def test_store_is_named_without_user_password_and_options(uri, parts, name):
    assert filters.store_name(uri, **parts) == name


POOL = {"size": 10, "overflow": 10, "requests": 4}


@pytest.mark.parametrize(
    "available, expected",
    [
        (0, {**POOL, "cut": False}),
        (80, {**POOL, "cut": False}),
        (79, {"size": 10, "overflow": 9, "requests": 4, "cut": True}),
        (16, {"size": 3, "overflow": 1, "requests": 2, "cut": True}),
        (8, {"size": 1, "overflow": 1, "requests": 1, "cut": True}),
    ],
)
def test_pools_of_two_workers_fit_what_the_server_offers(available, expected):
    assert filters.connection_pool(POOL, workers=2, engines=2, available=available) == expected


def test_files_come_from_the_control_node_or_the_machine_or_not_at_all():
    wanted = [
        {"path": "/etc/a", "source": "here.json"},
        {"path": "/etc/b", "source": "/srv/there.json"},
        {"path": "/etc/c", "source": ""},
        {"path": "/etc/d", "secret": "text"},
        {"path": "/etc/d", "source": ""},
    ]
    assert filters.brought_files(wanted, {"here.json": "content"}) == {
        "/etc/a": {"secret": "content"},
        "/etc/b": {"copy_of": "/srv/there.json"},
        "/etc/d": {"secret": "text"},
    }
