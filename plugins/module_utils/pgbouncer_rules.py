# Copyright the authors of this repository
# SPDX-License-Identifier: Apache-2.0
"""What the settings of the role pgbouncer can't be, and what it can't be on a machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ansible_collections.mlops.mlflow.plugins.module_utils import settings as shared
from ansible_collections.mlops.mlflow.plugins.module_utils.settings import (
    IMAGINABLE,
    LISTEN_ADDRESS,
    PORT,
    SQL_NAME,
    Settings,
    first_wrong,
    pair,
)

EXAMPLES = {
    "pgbouncer_databases": '[{"name": "mlflow", "host": "10.20.0.5"}]',
    "pgbouncer_users": '[{"name": "mlflow", "password": "…"}]',
    "pgbouncer_listen_addresses": '["localhost"]',
    "pgbouncer_networks": '["10.20.0.0/16"]',
}
RANGES = {
    "pgbouncer_port": PORT,
    "pgbouncer_server_connections": (2, IMAGINABLE, "take 2 or more"),
    "pgbouncer_max_connections": (10, IMAGINABLE, "take 10 or more"),
    "pgbouncer_wait_timeout_seconds": (1, IMAGINABLE, "take 1 or more"),
}


def contents(s: Settings) -> Iterator[str]:
    databases, users = s["pgbouncer_databases"], s["pgbouncer_users"]
    names = [str(each.get("name", "")) for each in (*databases, *users)]
    if not databases or not users:
        yield (
            "pgbouncer_databases or pgbouncer_users is empty; name what the pooler stands before and who may log in, or set "
            "mlflow_postgres_direct_host for the MLflow servers that use it."
        )
    if (name := first_wrong(names, SQL_NAME)) is not None:
        yield (
            f"pgbouncer_databases or pgbouncer_users has the name {name}; "
            "a name has lower-case letters, digits and _, at most 63, and does not begin with a digit."
        )
    if "pgbouncer" in names:
        yield "pgbouncer_databases or pgbouncer_users has the name pgbouncer, which is the pooler's own; take another."
    if (host := first_wrong([each.get("host", "") for each in databases], r"[A-Za-z0-9./:_-]+")) is not None:
        yield f"pgbouncer_databases has the host {host}; it is a host name, an address or the folder of a Unix socket."
    for user in users:
        if first_wrong([user.get("password", "")], r"[^\x00-\x1f\x7f]{1,1000}") is not None:
            yield (
                f"pgbouncer_users has for {user.get('name', '')} no password, one with a control character, or one of more than "
                "1000 characters; PgBouncer can't take it."
            )
            break


def reach(s: Settings) -> Iterator[str]:
    address = first_wrong(s["pgbouncer_listen_addresses"], LISTEN_ADDRESS)
    if address is not None or not s["pgbouncer_listen_addresses"]:
        yield (
            f"pgbouncer_listen_addresses has {address or 'nothing'}; "
            "an entry is a name or an IP address of the machine, or * for all of them."
        )
    if (network := first_wrong(s["pgbouncer_networks"], r"[0-9A-Fa-f.:]+/[0-9]{1,3}")) is not None:
        yield f"pgbouncer_networks has {network}; a network is written like 10.20.0.0/16."
    certificate, key = "pgbouncer_tls_certificate_file", "pgbouncer_tls_key_file"
    yield from pair(s, certificate, key, "set both, or neither")
    if s.text(certificate) and not (s.is_file(certificate) and s.is_file(key)):
        yield f"{certificate} or {key} names what is no file on the control node."


def ranges(s: Settings) -> Iterator[str]:
    yield from s.out_of_range(RANGES)


def wrong(settings: Mapping, role_path: str) -> list[str]:
    """All that is wrong with the settings, whatever machine they are for."""
    return shared.wrong(Settings(settings, role_path), (contents, reach, ranges), EXAMPLES)


def wrong_machine(_settings: Mapping, _role_path: str, system: Mapping) -> list[str]:
    """What can't be on a machine; see ``read_system`` in host.py."""
    if system["distribution"] == "debian" and system["systemd"]:
        return []
    return [
        "The role knows the PgBouncer of Debian 12 and 13, on a machine that runs systemd; "
        f"this one is {system['name']} {'with' if system['systemd'] else 'without'} it."
    ]
