"""The way past a pooler of connections, such as PgBouncer, to PostgreSQL itself.

A pooler that hands a connection to another client after each transaction mixes up what lives longer than
that: a lock that a migration holds stays held, and the empty search_path that pg_dump sets meets the next
client, whose tables are gone. So MLflow serves through the pooler, and whatever looks after the data, such
as backups, migrations and copies, goes to the address in ``MLFLOW_SERVICE_POSTGRES_DIRECT``. User, password,
database and TLS are the same there. Standard library only.
"""

import os
from collections.abc import Mapping
from urllib.parse import quote

VARIABLE = "MLFLOW_SERVICE_POSTGRES_DIRECT"  # host:port, or folder of a Unix socket:port; empty without a pooler
REPLACED = {"host", "hostaddr", "port"}


def is_set(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether PostgreSQL itself is elsewhere than where MLflow is sent."""
    return bool(environment.get(VARIABLE))


def uri(served: str, environment: Mapping[str, str] = os.environ) -> str:
    """Where PostgreSQL itself has a store; the same address where there is no pooler, or it is not in PostgreSQL.

    Args:
        served: for SQLAlchemy, in whose PostgreSQL dialects options win over the address before them.
        environment: the variables of ``mlflow.env``.
    """
    host, _, port = environment.get(VARIABLE, "").rpartition(":")
    if not host or not served.startswith("postgresql"):
        return served
    address, _, options = served.partition("?")
    kept = [option for option in options.split("&") if option and option.partition("=")[0] not in REPLACED]
    return f"{address}?{'&'.join([*kept, f'host={quote(host)}', f'port={port}'])}"
