"""A PostgreSQL that can't be the store is refused in one sentence that names the setting; one that can is taken."""

import socket

import pytest
from conftest import CERTIFICATES, DATABASE_HOST, OWNERS_PASSWORD, PASSWORD, Postgres
from mlflow_service.stores import postgres, probes

URI = "postgresql+psycopg2://"  # libpq's variables say the rest
ENCODED = "%20%20p%40ss%3Aw%2Frd%23%25%3F%26x%20%22%24%27%5C%C3%B1%20"
STRING = {"store": "mlflow_postgres_connection_string"}
SERVED = {
    "MLFLOW_BACKEND_STORE_URI": URI,
    "PGHOST": DATABASE_HOST,
    "PGPORT": "5432",
    "PGDATABASE": "outside",
    "PGUSER": "outsider",
    "PGPASSWORD": PASSWORD,
    "PGSSLMODE": "verify-full",
    "PGSSLROOTCERT": str(CERTIFICATES / "ca.pem"),
    "PGCONNECT_TIMEOUT": "3",
}
READER = {"PGUSER": "reader", "PGPASSWORD": "of-nothing"}
GHOST = {"PGUSER": "ghost", "PGPASSWORD": ""}
OWNER = {"PGUSER": "owner", "PGPASSWORD": OWNERS_PASSWORD}
CERTIFIED = {
    "PGDATABASE": "certified",
    "PGUSER": "certified",
    "PGPASSWORD": "",
    "PGSSLCERT": str(CERTIFICATES / "client.pem"),
    "PGSSLKEY": str(CERTIFICATES / "client.key"),
}
REFUSED = {
    "wrong password": (
        {"PGPASSWORD": "wrong"},
        "it does not accept the password for user outsider; correct mlflow_postgres_user or mlflow_postgres_password",
    ),
    "no password": ({"PGPASSWORD": ""}, "it wants a password; set mlflow_postgres_password"),
    "user that may not come in": ({"PGUSER": "nobody"}, "its pg_hba.conf lets no such user in from this machine"),
    "database that it may not come to": (
        {"PGDATABASE": "none"},
        "its pg_hba.conf lets no such user in from this machine",
    ),
    "no such user": (GHOST, "it has no user ghost; create it or correct mlflow_postgres_user"),
    "no such database": (
        {**OWNER, "PGDATABASE": "none"},
        "it has no database none; create it or correct mlflow_postgres_database",
    ),
    "no right to connect": ({**READER, "PGDATABASE": "closed"}, "its user may not connect to the database"),
    "no such host": (
        {"PGHOST": "none.invalid"},
        "its host name none.invalid can't be resolved; correct mlflow_postgres_host",
    ),
    "no server": (
        {"PGPORT": "5499"},
        "nothing listens at that address; start PostgreSQL there or correct mlflow_postgres_host and mlflow_postgres_port",
    ),
    "no server on the socket": (
        {"PGHOST": "/var/run/postgresql", "PGPORT": "5499"},
        "no PostgreSQL listens on this machine's socket /var/run/postgresql/.s.PGSQL.5499; set postgresql_install: true",
    ),
    "another account's user": (
        {"PGHOST": "/var/run/postgresql", "PGUSER": "outsider", "PGPASSWORD": ""},
        "over the socket it lets only the system account outsider be user outsider; set mlflow_postgres_user to",
    ),
    "without TLS": ({"PGSSLMODE": "disable"}, "add a line there, or change mlflow_postgres_sslmode"),
    "certificate of another CA": (
        {"PGSSLROOTCERT": "/etc/ssl/certs/ca-certificates.crt"},
        "its certificate is not from the CA in mlflow_postgres_ca_file; set mlflow_postgres_ca_file to",
    ),
    "certificate for another name": (
        {"PGHOST": "localhost"},
        f"its certificate is for {DATABASE_HOST}, not for localhost; set mlflow_postgres_host to a name that",
    ),
    "no CA file": (
        {"PGSSLROOTCERT": "/nowhere.pem"},
        "the CA file /nowhere.pem can't be read; set mlflow_postgres_ca_file",
    ),
    "no client certificate": (
        {**CERTIFIED, "PGSSLCERT": "", "PGSSLKEY": ""},
        "the client's certificate or key does not pass; correct mlflow_postgres_certificate_file",
    ),
    "certificate with another key": (
        {**CERTIFIED, "PGSSLKEY": str(CERTIFICATES / "server.key")},
        "the client's certificate or key does not pass; correct mlflow_postgres_certificate_file",
    ),
    "other encoding": (
        {"PGDATABASE": "latin"},
        "The database latin has the encoding LATIN1, MLflow needs UTF8; create one with ENCODING 'UTF8'",
    ),
    "no right to make tables": (READER, "User reader may not create tables in the database outside"),
}
ADDRESSES = {
    "unknown option": (
        f"{URI}outsider:{ENCODED}@{DATABASE_HOST}/outside?sslmod=require",
        "it can't be addressed like this; correct mlflow_postgres_connection_string",
    ),
    "password with raw characters": (
        f"{URI}outsider:p@ss:w/rd@{DATABASE_HOST}/outside",
        "mlflow_postgres_connection_string",
    ),
    "no number for a port": (
        f"{URI}outsider:{ENCODED}@{DATABASE_HOST}:port/outside",
        "mlflow_postgres_connection_string is no connection string, such as postgresql://user:password@host",
    ),
    "wrong password": (
        f"{URI}outsider:wrong@{DATABASE_HOST}/outside?sslmode=require",
        "it does not accept the password for user outsider; correct mlflow_postgres_connection_string",
    ),
}


@pytest.fixture
def examined(postgres_server, environment):
    """A function that looks at the store of the variables; returns what was found, and the errors in it."""

    def examine(given, **wanted):
        environment(**{name: value for name, value in (SERVED | given).items() if value})
        wanted = probes.Wanted({}, "mlflow", "mlflow", "/var/lib/mlflow", **wanted)
        return probes.examine({"database": probes.examine_database}, wanted)

    return examine


@pytest.mark.parametrize("given, sentence", REFUSED.values(), ids=REFUSED)
def test_server_that_can_not_be_the_store_is_refused_in_a_sentence(examined, given, sentence):
    (said,) = examined(given)["errors"]
    assert sentence in said
    assert "p@ss" not in said


@pytest.mark.parametrize("uri, sentence", ADDRESSES.values(), ids=ADDRESSES)
def test_connection_string_that_leads_nowhere_is_refused_by_its_name(examined, uri, sentence):
    (said,) = examined({"MLFLOW_BACKEND_STORE_URI": uri}, connection_settings=STRING)["errors"]
    assert sentence in said
    assert "p@ss" not in said and ENCODED not in said


@pytest.mark.parametrize("given", [{}, CERTIFIED], ids=["password with odd characters", "certificate"])
def test_empty_database_of_the_users_own_is_taken(examined, given):
    found = examined(given)
    assert found["errors"] == []
    assert (found["database"]["revision"], found["database"]["known"]) == ("", True)


def test_server_says_how_many_connections_there_are_for_the_service(examined):
    """Of the server's 60, 3 are the superuser's; of a user's 12, as of all, 4 are for mlflow-admin and the main process."""
    assert examined({})["database"]["connections"] == 60 - 3 - postgres.RESERVED_FOR_ADMIN
    limited = examined({"PGDATABASE": "small", "PGUSER": "limited", "PGPASSWORD": "of-little"})
    assert limited["database"]["connections"] == 12 - postgres.RESERVED_FOR_ADMIN == 8


def test_tables_that_somebody_else_owns_are_named(examined, postgres_server: Postgres):
    postgres_server.make("shared")
    postgres_server.ask("CREATE TABLE runs (n int)", "shared")
    (said,) = examined({**OWNER, "PGDATABASE": "shared"})["errors"]
    assert said.startswith(
        "The database shared has a table runs that user owner may not write to; make owner the owner"
    )


def test_server_that_does_not_answer_is_not_waited_for_without_end(examined):
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        (said,) = examined({"PGPORT": str(deaf.getsockname()[1]), "PGCONNECT_TIMEOUT": "2"})["errors"]
    assert "it does not answer within 2 s; correct mlflow_postgres_host, or let this machine through the" in said


def test_all_connections_in_use_are_said(examined, postgres_server: Postgres):
    postgres_server.ask("ALTER ROLE limited CONNECTION LIMIT 0")
    try:
        (said,) = examined({"PGDATABASE": "small", "PGUSER": "limited", "PGPASSWORD": "of-little"})["errors"]
    finally:
        postgres_server.ask("ALTER ROLE limited CONNECTION LIMIT 12")
    assert "all its connections are in use; raise its max_connections or end some" in said


def test_look_leaves_nothing_in_the_database(examined, postgres_server: Postgres):
    assert examined({})["errors"] == []
    assert postgres_server.ask("SELECT count(*) FROM pg_tables WHERE tablename LIKE 'mlflow%'", "outside") == "0"
