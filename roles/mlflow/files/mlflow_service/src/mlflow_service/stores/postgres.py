"""Ask a PostgreSQL, as the service will, whether it can be MLflow's backend store."""

import re
import secrets
from dataclasses import asdict

import sqlalchemy
from sqlalchemy.exc import DBAPIError

from mlflow_service.stores import schema

RESERVED_FOR_ADMIN = 4  # the server's main process has two connections, mlflow-admin wants some too

# What the server or libpq says, and what a person should do. {…} is filled from the message's named
# groups and from the names of the settings. Sources: PostgreSQL's src/interfaces/libpq/fe-connect.c,
# fe-secure-openssl.c, fe-auth.c and src/backend/libpq/auth.c.
SENTENCES = [
    (r'could not translate host name "(?P<name>.*?)"', "its host name {name} can't be resolved; correct {host}"),
    (r'"(?P<socket>/.*?)" failed: (No such file|Connection refused)',
     "no PostgreSQL listens on this machine's socket {socket}; "
     "set postgresql_install: true, or name another machine's server in {host}"),
    (r"Connection refused", "nothing listens at that address; start PostgreSQL there or correct {host} and {port}"),
    (r"timeout expired|timed out|No route|unreachable",
     "it does not answer within {timeout} s; correct {host}, or let this machine through the firewall"),
    (r"no password supplied", "it wants a password; set {password}"),
    (r'password authentication failed for user "(?P<name>.*?)"',
     "it does not accept the password for user {name}; correct {user} or {password}"),
    (r'Peer authentication failed for user "(?P<name>.*?)"',
     "over the socket it lets only the system account {name} be user {name}; set {user} to mlflow_user, "
     "set a password and {host}: 127.0.0.1, or let PostgreSQL map the account to the user (pg_ident.conf)"),
    (r'role "(?P<name>.*?)" does not exist', "it has no user {name}; create it or correct {user}"),
    (r'database "(?P<name>.*?)" does not exist', "it has no database {name}; create it or correct {database}"),
    (r"permission denied for database|User does not have CONNECT",
     "its user may not connect to the database; GRANT CONNECT, or correct {user}"),
    (r"no pg_hba.conf entry for .*?(?P<encryption>SSL encryption|no encryption|SSL on|SSL off|GSS encryption)?\s*$",
     "its pg_hba.conf lets no such user in from this machine ({encryption}); add a line there, or change {sslmode}"),
    (r"server does not support SSL", "it has no TLS, which {sslmode} asks for; turn it on there or change {sslmode}"),
    (r'root certificate file "(?P<name>.*?)"', "the CA file {name} can't be read; set {ca_file}"),
    (r"certificate verify failed|self.signed certificate|unable to get (local )?issuer",
     "its certificate is not from the CA in {ca_file}; set {ca_file} to the CA that signed it"),
    (r'certificate for "(?P<name>.*?)".* does not match host name "(?P<wanted>.*?)"',
     "its certificate is for {name}, not for {wanted}; set {host} to a name that the certificate has"),
    (r"(certificate|private key) file \"(?P<name>.*?)\"|private key|client certificate|certificate required"
     r"|tlsv1\d? alert",
     "the client's certificate or key does not pass; correct {certificate_file} and {key_file}"),
    (r"unsupported startup parameter: (?P<name>\w+)",
     "the pooler there does not pass {name} on; take it out of the connection string, or of mlflow_environment"),
    (r"no such database: (?P<name>\S+)|no such user: (?P<user_name>\S+)",
     "the pooler there does not know the database or the user; add them to it, or correct {database} and {user}"),
    (r"no more connections allowed", "the pooler there has no connection left; raise its max_client_conn"),
    (r"too many (clients|connections)|remaining connection slots",
     "all its connections are in use; raise its max_connections or end some"),
    (r"(starting up|shutting down|in recovery mode)",
     "it is starting or stopping; run the playbook again when it is up"),
    (r"invalid (connection option|sslmode value|integer value|port)|invalid dsn",
     "it can't be addressed like this; correct {connection}"),
]  # fmt: skip
DATABASE = "mlflow_postgres_database"
SETTINGS = ("host", "port", "database", "user", "password", "sslmode", "ca_file", "certificate_file", "key_file")
DIRECT = {name: f"mlflow_postgres_direct_{name}" for name in ("host", "port")}  # of PostgreSQL itself behind a pooler
POOLER_TRIES = 5

FACTS = """
SELECT current_setting('server_encoding') AS encoding, current_setting('max_connections')::int AS max_connections,
       current_setting('superuser_reserved_connections')::int
           + coalesce(current_setting('reserved_connections', true), '0')::int AS reserved,
       r.rolconnlimit AS user_limit, d.datconnlimit AS database_limit, pg_is_in_recovery() AS standby,
       current_user AS user_name, d.datname AS database_name
FROM pg_roles r, pg_database d WHERE r.rolname = current_user AND d.datname = current_database()
"""
NOT_OURS = """
SELECT min(c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = current_schema() AND c.relkind IN ('r', 'p')
      AND NOT has_table_privilege(c.oid, 'SELECT, INSERT, UPDATE, DELETE')
"""


# The server that answers: its start tells it from every other, and the database's number from its others.
IDENTITY = "SELECT pg_postmaster_start_time(), oid FROM pg_database WHERE datname = current_database()"


class PostgresError(Exception):
    """Why this server can't be the store; the text is one sentence for a person."""


def explain(
    said: str, connection_setting: str, timeout: str, database_setting: str = DATABASE, *, itself: bool = False
) -> str:
    """What a refused connection means, as the rest of a sentence.

    Args:
        said: by the server or by libpq; it never holds the password.
        connection_setting: name of the setting with the connection string, where one is set.
        timeout: seconds after which libpq gives up.
        database_setting: name of the setting with the database's name.
        itself: whether it was PostgreSQL itself, past a pooler.
    """
    names = {name: connection_setting or f"mlflow_postgres_{name}" for name in SETTINGS}
    if database_setting != DATABASE or not connection_setting:
        names["database"] = database_setting
    names |= DIRECT if itself else {}
    names |= {"connection": connection_setting or "mlflow_postgres_sslmode", "timeout": timeout}
    for pattern, sentence in SENTENCES:
        if found := re.search(pattern, said, re.MULTILINE):
            groups = {name: value or "not encrypted or encrypted" for name, value in found.groupdict().items()}
            return sentence.format(**{**names, **groups})
    return f"it says: {' '.join(said.split())[:300]}"


def examine(
    uri: str,
    connection_setting: str = "",
    timeout: str = "10",
    *,
    replica: bool = False,
    database_setting: str = DATABASE,
    store: schema.Store = schema.TRACKING,
    served: str = "",
) -> dict:
    """What the server offers to us; raises PostgresError where that is not enough.

    Args:
        uri: for SQLAlchemy; libpq's ``PG*`` variables fill in what it leaves out.
        connection_setting: see `explain`.
        timeout: see `explain`.
        replica: whether it is only read from.
        database_setting: see `explain`.
        store: what it is to hold.
        served: the same store through a pooler, where MLflow is sent; empty without one.

    Returns:
        How many ``connections`` we may have, 0 where that is the pooler's to say, and the store's `schema.Schema`.
    """
    try:
        engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        raise PostgresError(
            f"{connection_setting} is no connection string, such as postgresql://user:password@host:5432/database; "
            "characters such as @ : / # % in a password are written as %40 %3A %2F %23 %25."
        ) from None
    itself = bool(served)
    try:
        with engine.connect() as connection:
            offered = look(connection, replica, database_setting)
            if not replica and hands_out_connections(connection, engine):
                raise PostgresError(pooled(connection_setting, itself))
            found = {"connections": offered, **asdict(schema.compare(connection, store))}
            if not served:
                return found
            itself, identity = False, connection.execute(sqlalchemy.text(IDENTITY)).one()
        engine = sqlalchemy.create_engine(served, poolclass=sqlalchemy.NullPool)
        with engine.connect() as connection:
            if connection.execute(sqlalchemy.text(IDENTITY)).one() != identity:
                raise PostgresError(
                    f"{DIRECT['host']} and {DIRECT['port']} lead to another database than "
                    f"{connection_setting or 'mlflow_postgres_host'}; name the server there that the pooler leads to."
                )
        return {**found, "connections": 0}
    except DBAPIError as error:
        reason = explain(str(error.orig), connection_setting, timeout, database_setting, itself=itself)
        what = "The PostgreSQL read replica" if replica else "PostgreSQL"
        raise PostgresError(f"{what} can't be used: {reason}.") from error
    except (TypeError, ValueError) as error:  # such as an option that libpq does not know
        raise PostgresError(f"PostgreSQL can't be used: {error}; correct {connection_setting}.") from error


def hands_out_connections(connection: sqlalchemy.Connection, engine: sqlalchemy.Engine) -> bool:
    """Whether a pooler is seen to hand our connection to others after each transaction; never true where none does.

    A pooler gives each client a process number of its own making. Where it is the server's own, there is no
    pooler. Two clients that are connected at once meet the same process of the server only where neither owns it.
    """
    process = sqlalchemy.text("SELECT pg_backend_pid()")
    ours = connection.scalar(process)
    connection.rollback()
    if ours == connection.connection.dbapi_connection.info.backend_pid:
        return False
    with engine.connect() as other:
        for _ in range(POOLER_TRIES):
            met = []
            for each in (connection, other):
                met.append(each.scalar(process))
                each.rollback()
            if met[0] == met[1]:
                return True
    return False


def pooled(connection_setting: str, itself: bool) -> str:
    """A sentence about a pooler that stands where PostgreSQL itself has to."""
    if itself:
        return (
            f"{DIRECT['host']} leads to a pooler of connections as well, through which backups and migrations would "
            f"break what other clients do; name PostgreSQL itself in {DIRECT['host']} and {DIRECT['port']}."
        )
    return (
        f"{connection_setting or 'mlflow_postgres_host'} leads to a pooler that hands connections out anew after each "
        "transaction, where backups and migrations would break what other clients do; name PostgreSQL itself in "
        f"{DIRECT['host']}."
    )


def look(connection: sqlalchemy.Connection, replica: bool, database_setting: str = DATABASE) -> int:
    """How many connections we may have; refuses what MLflow can't work with."""
    facts = connection.execute(sqlalchemy.text(FACTS)).one()
    where = f"The database {facts.database_name}"
    if facts.encoding != "UTF8":
        raise PostgresError(
            f"{where} has the encoding {facts.encoding}, MLflow needs UTF8; "
            f"create one with ENCODING 'UTF8' TEMPLATE template0 and name it in {database_setting}."
        )
    if not replica:
        look_at_rights(connection, facts, where)
    limits = [facts.max_connections - facts.reserved, facts.user_limit, facts.database_limit]
    return max(1, min(limit for limit in limits if limit >= 0) - RESERVED_FOR_ADMIN)


def look_at_rights(connection: sqlalchemy.Connection, facts: sqlalchemy.Row, where: str) -> None:
    if facts.standby:
        raise PostgresError(f"{where} is on a standby, which is read-only; set mlflow_postgres_host to the primary.")
    if table := connection.scalar(sqlalchemy.text(NOT_OURS)):
        raise PostgresError(
            f"{where} has a table {table} that user {facts.user_name} may not write to; "
            f"make {facts.user_name} the owner of MLflow's tables, or correct mlflow_postgres_user."
        )
    transaction = connection.begin_nested()
    try:
        connection.execute(sqlalchemy.text(f"CREATE TABLE mlflow_preflight_{secrets.token_hex(8)} (n int)"))
    except DBAPIError as error:
        raise PostgresError(
            f"User {facts.user_name} may not create tables in {where[0].lower()}{where[1:]} "
            f"({str(error.orig).strip().splitlines()[0]}); make the user its owner, or GRANT CREATE on the schema."
        ) from error
    finally:
        transaction.rollback()
