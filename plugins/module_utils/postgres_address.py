# Copyright the authors of this repository
# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL's addresses: connection strings are read here and nowhere else on the control node."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass

from ansible_collections.mlops.mlflow.plugins.module_utils.defaults import setting

PORT = 5432
SOCKET_FOLDER = "/var/run/postgresql"  # of Debian's and RHEL's packages
# What a connection string consists of. Source: SQLAlchemy, engine/url.py, _parse_url, which MLflow reads it by
FORM = re.compile(
    r"postgres(ql)?(\+\w+)?://([^:/]*(:[^@]*)?@)?(?P<place>[^/?@]*)(/(?P<name>[^?@]*))?(\?(?P<options>([^=@]*=.*)?))?",
    re.DOTALL,
)
# Of several hosts, all but the last port belong to the host.
PLACE = re.compile(r"(?P<host>\[[^\]]*\]|[^:]*|.*:\d+,[^:]*)(:(?P<port>\d*))?")


def is_local(host: str) -> bool:
    """Whether a PostgreSQL's host is this machine: a folder with its socket, or loopback."""
    name = urllib.parse.unquote(host).lower()
    return name.startswith(("/", "127.")) or name in ("localhost", "::1", "[::1]")


@dataclass(frozen=True)
class Address:
    """Where a database is.

    Attributes:
        host: name, address, or the folder of a Unix socket; empty where nothing says it.
        port: TCP port, or the number of the socket.
        database: its name.
    """

    host: str
    port: str
    database: str

    @property
    def is_here(self) -> bool:
        """Whether the database is on the machine that asks for it."""
        return is_local(self.host)

    def __str__(self) -> str:
        """A name that may be shown: no user, no password, no options."""
        if self.host.startswith("/"):
            return f"postgresql:///{self.database}?host={self.host}&port={self.port}"
        return f"postgresql://{self.host}:{self.port}/{self.database}"


def read(uri: str, host: object = "", port: object = PORT, database: object = "") -> Address:
    """What a connection string leads to; the other arguments are what it leaves out. ValueError where it is none."""
    found = FORM.fullmatch(uri.strip())
    place = PLACE.fullmatch(found["place"]) if found else None
    if found is None or place is None:
        raise ValueError("no connection string for PostgreSQL")
    options = urllib.parse.parse_qs(found["options"] or "")
    return Address(
        options.get("host", [place["host"]])[0] or str(host or ""),
        place["port"] or options.get("port", [""])[0] or str(port or ""),
        found["name"] or options.get("dbname", [""])[0] or str(database or ""),
    )


def is_readable(uri: str) -> bool:
    """Whether it is clear where a connection string leads to."""
    try:
        read(uri)
    except ValueError:
        return False
    return True


def of_server(known: Mapping, socket_folder: str = SOCKET_FOLDER) -> Address | None:
    """The database that an MLflow server keeps its metadata in; None where that is SQLite, or nothing that can be read.

    Poolers that stand before it make no difference: it is PostgreSQL itself that counts (mlflow_postgres_direct_host).

    Args:
        known: the settings, or Ansible's variables of a host, in which what has its default may be missing.
        socket_folder: the host where none is named.
    """
    if known.get("mlflow_backend_store") != "postgresql":
        return None
    given = str(known.get("mlflow_postgres_connection_string") or "")
    host = known.get("mlflow_postgres_host") or socket_folder
    port = known.get("mlflow_postgres_port") or PORT
    database = setting(known, "mlflow_postgres_database")
    try:
        # Beside a connection string PGHOST is not set, so what it leaves out is libpq's default.
        found = read(given, SOCKET_FOLDER, port, database) if given else Address(str(host), str(port), str(database))
    except ValueError:  # the role's preflight says what is wrong with it
        return None
    if known.get("mlflow_postgres_direct_host"):
        direct_port = str(known.get("mlflow_postgres_direct_port") or PORT)
        return Address(str(known["mlflow_postgres_direct_host"]), direct_port, found.database)
    return found


def data_are_here(known: Mapping) -> bool:
    """Whether a server's metadata are on its own machine, so that backups are its own to make; see `of_server`."""
    address = of_server(known)
    return known.get("mlflow_backend_store") != "postgresql" or (address is not None and address.is_here)


def with_driver(connection_string: str) -> str:
    """A connection string as SQLAlchemy wants it, with the installed driver named.

    SQLAlchemy 2.1 takes a bare ``postgresql://`` for psycopg 3 and does not know ``postgres://``.
    User, password, host, database and options stay as they are.
    """
    return re.sub(r"^postgres(ql)?(\+\w+)?://", "postgresql+psycopg2://", connection_string.strip())


def with_database(uri: str, database: str) -> str:
    """The URI of another database on the same server, with the same user, password and options.

    Args:
        uri: for SQLAlchemy, such as ``postgresql+psycopg2://user:password@host/one?sslmode=require``.
        database: the other one's name.
    """
    address, _, options = uri.partition("?")
    scheme, _, rest = address.partition("://")
    kept = [option for option in options.split("&") if option and not option.startswith("dbname=")]
    other = "%s://%s/%s" % (scheme, rest.partition("/")[0], urllib.parse.quote(database, safe=""))
    return "?".join([other, "&".join(kept)] if kept else [other])
