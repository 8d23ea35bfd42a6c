"""PostgreSQL's databases: dumped and restored by the server's own programs."""

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from mlflow_service.backup.artifacts import tool_failed
from mlflow_service.backup.folder import new_file, opened
from mlflow_service.backup.model import BLOCK, DATABASE_LOCK_SECONDS, BackupError, Database, Service
from mlflow_service.stores import pooler
from mlflow_service.system import acting

# libpq's parameters that have a variable; the others are for tuning. Source: PostgreSQL's documentation, 34.15.
LIBPQ_VARIABLES = {
    "host": "PGHOST",
    "hostaddr": "PGHOSTADDR",
    "port": "PGPORT",
    "dbname": "PGDATABASE",
    "user": "PGUSER",
    "password": "PGPASSWORD",
    "passfile": "PGPASSFILE",
    "options": "PGOPTIONS",
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "sslcrl": "PGSSLCRL",
    "sslcrldir": "PGSSLCRLDIR",
    "sslsni": "PGSSLSNI",
    "ssl_min_protocol_version": "PGSSLMINPROTOCOLVERSION",
    "ssl_max_protocol_version": "PGSSLMAXPROTOCOLVERSION",
    "channel_binding": "PGCHANNELBINDING",
    "gssencmode": "PGGSSENCMODE",
    "krbsrvname": "PGKRBSRVNAME",
    "requirepeer": "PGREQUIREPEER",
    "connect_timeout": "PGCONNECT_TIMEOUT",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
}
# The tables, sequences, types and functions of the user in its schema; those of an extension stay.
POSTGRES_MEASURE = """
SELECT current_setting('server_version_num')::int AS version, current_schema() AS schema,
       coalesce((SELECT sum(pg_table_size(c.oid)) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                 WHERE n.nspname = current_schema() AND c.relkind IN ('r', 'm')), 0)::bigint AS bytes
"""
POSTGRES_CLEAR = f"""
BEGIN;
SET LOCAL lock_timeout = '{DATABASE_LOCK_SECONDS}s';
SET LOCAL client_min_messages = warning;
DO $clear$
DECLARE
    found record;
BEGIN
    FOR found IN
        WITH mine AS (SELECT n.oid AS schema, r.oid AS owner, n.nspname FROM pg_namespace n, pg_roles r
                      WHERE n.nspname = current_schema() AND r.rolname = current_user),
             extensions AS (SELECT classid, objid FROM pg_depend WHERE deptype = 'e')
        SELECT CASE relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'S' THEN 'SEQUENCE'
                              WHEN 'f' THEN 'FOREIGN TABLE' WHEN 'c' THEN 'TYPE' ELSE 'TABLE' END AS kind,
               format('%I.%I', nspname, relname) AS name
        FROM pg_class c JOIN mine ON relnamespace = schema AND relowner = owner
        WHERE relkind IN ('r', 'p', 'v', 'm', 'S', 'f', 'c')
              AND ('pg_class'::regclass, c.oid) NOT IN (SELECT classid, objid FROM extensions)
        UNION ALL
        SELECT 'TYPE', format('%I.%I', nspname, typname)
        FROM pg_type t JOIN mine ON typnamespace = schema AND typowner = owner
        WHERE typtype IN ('e', 'd', 'r') AND ('pg_type'::regclass, t.oid) NOT IN (SELECT classid, objid FROM extensions)
        UNION ALL
        SELECT 'ROUTINE', format('%I.%I(%s)', nspname, proname, pg_get_function_identity_arguments(p.oid))
        FROM pg_proc p JOIN mine ON pronamespace = schema AND proowner = owner
        WHERE ('pg_proc'::regclass, p.oid) NOT IN (SELECT classid, objid FROM extensions)
        ORDER BY kind DESC -- a table before the sequences of its columns, which go with it
    LOOP
        EXECUTE format('DROP %s IF EXISTS %s CASCADE', found.kind, found.name);
    END LOOP;
END
$clear$;
"""
# What a newer pg_restore sets and an older server does not know, by the server's version that knows it first.
PARAMETERS_SINCE = {b"transaction_timeout": 170000}


def measure_postgres(service: Service, database: Database) -> dict[str, Any]:
    import sqlalchemy
    from sqlalchemy.exc import DBAPIError

    from mlflow_service.stores import postgres, schema

    store = schema.TRACKING if database is service.database else schema.AUTH
    try:
        with sqlalchemy.create_engine(database.uri, poolclass=sqlalchemy.NullPool).connect() as connection:
            row = connection.execute(sqlalchemy.text(POSTGRES_MEASURE)).one()
            revision = schema.revision(connection, store)
    except DBAPIError as error:
        timeout = service.environment.get("PGCONNECT_TIMEOUT", "10")
        setting = "mlflow_auth_database" if database is service.auth else postgres.DATABASE
        itself = pooler.is_set(service.environment)
        reason = postgres.explain(str(error.orig), "", timeout, setting, itself=itself)
        raise BackupError(f"PostgreSQL can't be used: {reason}.") from None
    return {"bytes": row.bytes, "revision": revision, "version": row.version, "schema": row.schema}


def libpq_variables(service: Service, database: Database) -> dict[str, str]:
    """The ``PG*`` variables that lead PostgreSQL's own programs where the service goes; no secret in a command line."""
    import sqlalchemy

    url = sqlalchemy.make_url(database.uri)
    _, parameters = url.get_dialect()().create_connect_args(url)
    given = {LIBPQ_VARIABLES[name]: str(value) for name, value in parameters.items() if name in LIBPQ_VARIABLES}
    return {**service.environment, **given, "PGAPPNAME": "mlflow-backup", "PGCLIENTENCODING": "UTF8"}


def client_folder(server_version: int) -> Path:
    """Where the programs are that fit a server best: the oldest that are not older than it.

    Args:
        server_version: as PostgreSQL's server_version_num.

    Raises:
        BackupError: there are none, or only older ones.
    """
    found = client_versions()
    wanted = server_version // 10000
    fitting = [version for version in found if version >= wanted]
    if fitting:
        return found[min(fitting)]
    has = f"pg_dump on this machine is of version {max(found)}" if found else "This machine has no pg_dump"
    raise BackupError(
        f"{has}, and the server is PostgreSQL {wanted}, which needs {wanted} or later: "
        f"install postgresql-client-{wanted} (apt.postgresql.org and yum.postgresql.org have every version)."
    )


def client_versions() -> dict[int, Path]:
    """The folders with pg_dump, pg_restore and psql, by version.

    Debian's /usr/bin/pg_dump chooses a version by what clusters the machine has, so that it is the last to be asked.
    """
    folders = [*Path("/usr/lib/postgresql").glob("*/bin"), *Path("/usr").glob("pgsql-*/bin"), Path("/usr/bin")]
    found: dict[int, Path] = {}
    for folder in folders:
        if not all((folder / tool).exists() for tool in ("pg_dump", "pg_restore", "psql")):
            continue
        said = subprocess.run([folder / "pg_dump", "--version"], capture_output=True, text=True).stdout
        if version := re.search(r"\) (\d+)", said):
            found.setdefault(int(version[1]), folder)
    return found


def dump_postgres(service: Service, database: Database, measured: Mapping[str, Any], target: Path) -> None:
    command = [
        str(client_folder(measured["version"]) / "pg_dump"),
        "--format=custom",
        "--no-owner",
        "--no-privileges",
        "--no-blobs",
        "--no-password",
        f"--lock-wait-timeout={DATABASE_LOCK_SECONDS}s",
        f"--schema={pattern(measured['schema'])}",
    ]
    with new_file(target) as dump:
        variables = libpq_variables(service, database)
        done = service.run(command, variables, output=dump, seconds=acting.DATA_SECONDS)
        if done.status != 0:
            raise BackupError(tool_failed("pg_dump", done.status, done.errors))
        dump.flush()
        os.fsync(dump.fileno())


def pattern(name: str) -> str:
    """A schema's name as pg_dump's patterns take it: exactly that one."""
    return '"' + name.replace('"', '""') + '"'


def refuse_other_schema(theirs: str, ours: str) -> None:
    if theirs != ours:
        raise BackupError(
            f"The backup is of the schema {theirs}, and the server's user has {ours}; set its search_path."
        )


def restore_postgres(service: Service, database: Database, measured: Mapping[str, Any], dump: Path) -> None:
    """Replace the tables by those of the dump in one transaction, which is committed when all are there.

    The end of psql's input is not the commit: it would come, too, when we are killed.
    """
    tools = client_folder(measured["version"])
    variables = {"PATH": os.defpath, "LANG": "C.UTF-8", "HOME": str(service.home), **libpq_variables(service, database)}
    child = {"env": variables, "cwd": "/", "start_new_session": True, **service.identity()}
    read = [tools / "pg_restore", "--file=-", "--no-owner", "--no-privileges", f"--schema={measured['schema']}"]
    write = [tools / "psql", "--no-psqlrc", "--no-password", "--quiet", "--set=ON_ERROR_STOP=1", "--file=-"]
    with opened(dump) as source, tempfile.TemporaryFile() as read_said, tempfile.TemporaryFile() as write_said:
        reader = subprocess.Popen(read, stdin=source, stdout=subprocess.PIPE, stderr=read_said, **child)
        writer = subprocess.Popen(write, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=write_said, **child)
        too_long = threading.Timer(acting.DATA_SECONDS, lambda: [process.kill() for process in (reader, writer)])
        too_long.daemon = True
        too_long.start()
        try:
            with contextlib.suppress(BrokenPipeError):  # psql has ended, and says why
                writer.stdin.write(POSTGRES_CLEAR.encode())
                pass_on(reader.stdout, writer.stdin, measured["version"])
                if reader.wait() == 0:
                    writer.stdin.write(b"\nCOMMIT;\n")
            with contextlib.suppress(BrokenPipeError):
                writer.stdin.close()
            statuses = {"psql": writer.wait(), "pg_restore": reader.poll()}
        finally:
            too_long.cancel()
            for process in (reader, writer):
                process.kill()
                process.wait()
        for tool, said in (("psql", write_said), ("pg_restore", read_said)):
            if statuses[tool]:
                said.seek(0)
                raise BackupError(tool_failed(tool, statuses[tool], said.read().decode(errors="replace")))
        if statuses["pg_restore"] is None:
            raise BackupError("psql ended before the whole dump was read.")


def pass_on(script: IO[bytes], target: IO[bytes], server_version: int) -> None:
    """Pass a script on to psql, without the parameters at its start that the server is too old for."""
    for line in script:
        found = re.match(rb"SET (\w+) = ", line)
        if not (found and PARAMETERS_SINCE.get(found[1], 0) > server_version):
            target.write(line)
        if line.startswith(b"-- Name: "):
            break
    shutil.copyfileobj(script, target, BLOCK)
