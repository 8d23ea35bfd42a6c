"""PostgreSQL's addresses: read in one place, and one answer to whether a database is on this machine."""

import pytest
from ansible_collections.mlops.mlflow.plugins.module_utils import postgres_address as addresses

POSTGRES = {"mlflow_backend_store": "postgresql"}


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
    assert addresses.with_driver(given) == expected


@pytest.mark.parametrize(
    "settings, name",
    [
        ({"mlflow_postgres_host": "db1"}, "postgresql://db1:5432/mlflow"),
        ({}, "postgresql:///mlflow?host=/var/run/postgresql&port=5432"),
        (
            {"mlflow_postgres_connection_string": "postgresql://u:p%40@h:5433/d?sslmode=require"},
            "postgresql://h:5433/d",
        ),
        ({"mlflow_postgres_connection_string": "postgresql://u:p/q:r?s@h/d"}, "postgresql://h:5432/d"),
        ({"mlflow_postgres_connection_string": "postgresql://u:p@h:/d?application_name=a@b"}, "postgresql://h:5432/d"),
        ({"mlflow_postgres_connection_string": "postgresql://u:p@[fd00::1]/d"}, "postgresql://[fd00::1]:5432/d"),
        ({"mlflow_postgres_connection_string": "postgresql://u:p@h:1,i:2/d"}, "postgresql://h:1,i:2/d"),
        (
            {"mlflow_postgres_connection_string": "postgres://u:p@/d?host=/cloudsql/p:r:i"},
            "postgresql:///d?host=/cloudsql/p:r:i&port=5432",
        ),
        (
            {
                "mlflow_postgres_host": "pooler",
                "mlflow_postgres_direct_host": "db2",
                "mlflow_postgres_direct_port": 5433,
            },
            "postgresql://db2:5433/mlflow",
        ),
        (
            {
                "mlflow_postgres_connection_string": "postgresql://u:p@pooler:6432/d",
                "mlflow_postgres_direct_host": "::1",
            },
            "postgresql://::1:5432/d",
        ),
    ],
)
def test_store_is_named_without_user_password_and_options(settings, name):
    assert str(addresses.of_server({**POSTGRES, **settings})) == name


def test_server_on_sqlite_and_a_string_that_is_none_have_no_address():
    assert addresses.of_server({"mlflow_backend_store": "sqlite", "mlflow_postgres_host": "db1"}) is None
    assert addresses.of_server({**POSTGRES, "mlflow_postgres_connection_string": "mysql://h/d"}) is None


@pytest.mark.parametrize(
    "settings, is_here",
    [
        ({}, True),
        ({"mlflow_postgres_host": "/var/run/postgresql"}, True),
        ({"mlflow_postgres_host": "127.0.0.1"}, True),
        ({"mlflow_postgres_host": "LOCALHOST"}, True),
        ({"mlflow_postgres_host": "::1"}, True),
        ({"mlflow_postgres_host": "db1"}, False),
        ({"mlflow_postgres_host": "127.0.0.1", "mlflow_postgres_direct_host": "db1"}, False),  # a pooler here
        ({"mlflow_postgres_host": "pooler", "mlflow_postgres_direct_host": "127.0.0.1"}, True),
        ({"mlflow_postgres_connection_string": "postgresql://u:p@localhost/d"}, True),
        ({"mlflow_postgres_connection_string": "postgresql://u:p@[::1]:5433/d"}, True),
        ({"mlflow_postgres_connection_string": "postgresql://u:p@%2Fvar%2Frun%2Fpostgresql/d"}, True),
        ({"mlflow_postgres_connection_string": "postgresql:///d"}, True),
        ({"mlflow_postgres_connection_string": "postgresql:///d", "mlflow_postgres_host": "db1"}, True),  # no PGHOST
        ({"mlflow_postgres_connection_string": "postgresql://u:p@db1/d"}, False),
    ],
)
def test_database_is_here_where_its_server_is(settings, is_here):
    assert addresses.of_server({**POSTGRES, **settings}).is_here is is_here


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("postgresql+psycopg2://?keepalives_idle=30", "postgresql+psycopg2:///mlflow_auth?keepalives_idle=30"),
        (
            "postgresql+psycopg2://u:p%40s%2F@db:5433/one?sslmode=require",
            "postgresql+psycopg2://u:p%40s%2F@db:5433/mlflow_auth?sslmode=require",
        ),
        ("postgresql+psycopg2://u@db/one", "postgresql+psycopg2://u@db/mlflow_auth"),
        ("postgresql+psycopg2://u@db", "postgresql+psycopg2://u@db/mlflow_auth"),
        ("postgresql+psycopg2:///?host=/run/pg&dbname=one", "postgresql+psycopg2:///mlflow_auth?host=/run/pg"),
    ],
)
def test_other_database_keeps_server_user_password_and_options(uri, expected):
    assert addresses.with_database(uri, "mlflow_auth") == expected
