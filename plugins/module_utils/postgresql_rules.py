# Copyright the authors of this repository
# SPDX-License-Identifier: Apache-2.0
"""What the settings of the role postgresql can't be, and what it can't be on a machine."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cached_property

from ansible_collections.mlops.mlflow.plugins.module_utils import settings as shared
from ansible_collections.mlops.mlflow.plugins.module_utils.settings import (
    IMAGINABLE,
    LISTEN_ADDRESS,
    PORT,
    SQL_NAME,
    Settings,
    first_wrong,
    pair,
    unfit_system,
)

EXAMPLES = {
    "postgresql_databases": '[{"name": "mlflow", "owner": "mlflow"}]',
    "postgresql_users": '[{"name": "mlflow", "system_user": "mlflow"}]',
    "postgresql_listen_addresses": '["localhost"]',
    "postgresql_networks": '["10.20.0.0/16"]',
    "postgresql_replicas": '[{"name": "db2", "networks": ["10.20.0.6/32"]}]',
    "postgresql_settings": '{"random_page_cost": 1.1}',
}
RANGES = {
    "postgresql_port": PORT,
    "postgresql_max_connections": (10, IMAGINABLE, "take 10 or more"),
    "postgresql_replicas_wal_keep_mb": (64, IMAGINABLE, "take 64 or more"),
}
LOOPBACK = r"localhost|127(\.\d+){3}|::1"
CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f]")
SERVERS_OWN_USER = re.compile(r"postgres$|pg_|public$|none$")
SERVERS_OWN_DATABASES = ("postgres", "template0", "template1")
PARAMETER = r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_$]*)?"
TRUST = re.compile(r"(?m)^[ \t]*(?:local|host\w*)[ \t].*[ \t]trust\b.*$")  # a line of pg_hba.conf

# Parameters that a setting stands for, or that the role relies on
OWNED_PARAMETERS = {
    "listen_addresses": "postgresql_listen_addresses",
    "port": "postgresql_port",
    "max_connections": "postgresql_max_connections",
    "ssl": "postgresql_tls_certificate_file",
    "ssl_cert_file": "postgresql_tls_certificate_file",
    "ssl_key_file": "postgresql_tls_key_file",
    "password_encryption": "postgresql_users (passwords are always scram-sha-256)",
    "primary_conninfo": "postgresql_primary_host and postgresql_replication_*",
    "primary_slot_name": "postgresql_replication_slot",
    "max_slot_wal_keep_size": "postgresql_replicas_wal_keep_mb",
    "data_directory": "pg_createcluster's own configuration",
    "config_file": "no setting (the distribution's place is used)",
    "hba_file": "postgresql_users and postgresql_networks",
    "ident_file": "postgresql_users",
    "unix_socket_directories": "no setting (the distribution's place is used)",
    "include": "postgresql_settings itself",
    "include_dir": "postgresql_settings itself",
    "include_if_exists": "postgresql_settings itself",
}


class PostgresqlSettings(Settings):
    """The role's settings, and what follows from them."""

    @cached_property
    def is_replica(self) -> bool:
        return bool(self.text("postgresql_primary_host"))

    @cached_property
    def user_names(self) -> list[str]:
        return [str(user.get("name", "")) for user in self["postgresql_users"]]

    @cached_property
    def database_names(self) -> list[str]:
        return [str(database.get("name", "")) for database in self["postgresql_databases"]]

    @cached_property
    def with_passwords(self) -> list[dict]:
        """Users that have a password."""
        return [user for user in self["postgresql_users"] if user.get("password") not in ("", None)]

    @cached_property
    def beyond_loopback(self) -> list[str]:
        """Where others can reach the server."""
        return [str(each) for each in self["postgresql_listen_addresses"] if not re.fullmatch(LOOPBACK, str(each))]

    @cached_property
    def slots(self) -> list[str]:
        """Names of replication slots: a replica's own, or those of all replicas."""
        if self.is_replica:
            return [self.text("postgresql_replication_slot")]
        return [str(replica.get("name", "")) for replica in self["postgresql_replicas"]]


def replication(s: PostgresqlSettings) -> Iterator[str]:
    replicas, password, user = (
        s["postgresql_replicas"],
        s.text("postgresql_replication_password"),
        s.text("postgresql_replication_user"),
    )
    if s.is_replica and replicas:
        yield "postgresql_primary_host and postgresql_replicas are both set; a machine is a primary, or the replica of one."
    if CONTROL_CHARACTER.search(password):
        yield "postgresql_replication_password has a line break or another control character; PostgreSQL can't take it."
    if s.is_replica or replicas:
        if not password:
            yield "postgresql_replication_password is empty; a primary and its replicas need the same one, best from a vault."
        if first_wrong([user], SQL_NAME) is not None or user in s.user_names or SERVERS_OWN_USER.match(user):
            yield (
                f"postgresql_replication_user is {user}; take a name of lower-case letters, digits and _ that is "
                "none of postgresql_users and none that the server keeps for itself."
            )
    if (slot := first_wrong(s.slots, "[a-z0-9_]{1,63}")) is not None:
        yield (
            f"{'postgresql_replication_slot' if s.is_replica else 'postgresql_replicas'} has the name {slot or 'of nothing'}; "
            "the name of a replica's slot has lower-case letters, digits and _, 1 to 63."
        )
    if replicas and not s.beyond_loopback:
        yield (
            f"postgresql_replicas has {s.slots[0]}, but the server would listen on loopback only; add one of the machine's "
            "addresses, or *, to postgresql_listen_addresses."
        )


def ranges(s: PostgresqlSettings) -> Iterator[str]:
    yield from s.out_of_range(RANGES)
    if s.number("postgresql_memory_mb") != 0 and s.number("postgresql_memory_mb") < 128:
        yield f"postgresql_memory_mb is {s['postgresql_memory_mb']}; take 128 or more, or 0 to let the role decide."


def contents(s: PostgresqlSettings) -> Iterator[str]:
    if (name := first_wrong([*s.user_names, *s.database_names], SQL_NAME)) is not None:
        yield (
            f"postgresql_users or postgresql_databases has the name {name}; "
            "a name has lower-case letters, digits and _, at most 63, and does not begin with a digit."
        )
    if any(SERVERS_OWN_USER.match(user) for user in s.user_names):
        yield "postgresql_users has a name that the server keeps for itself (postgres, public, none or pg_…); take another."
    if any(name in SERVERS_OWN_DATABASES for name in s.database_names):
        yield "postgresql_databases has postgres, template0 or template1, which belong to the server itself; take another name."
    if len(set(s.user_names)) < len(s.user_names):
        yield "postgresql_users names a user twice; give each one entry."
    if len(set(s.database_names)) < len(s.database_names):
        yield "postgresql_databases names a database twice; give each one entry."
    accounts = [user["system_user"] for user in s["postgresql_users"] if user.get("system_user") not in ("", None)]
    if (account := first_wrong(accounts, "[a-z_][a-z0-9_.-]{0,31}")) is not None:
        yield (
            f"postgresql_users has the system_user {account}; "
            "an account of the machine has lower-case letters, digits and . _ - only."
        )
    if wrong_passwords := [user for user in s.with_passwords if CONTROL_CHARACTER.search(str(user["password"]))]:
        yield (
            f"postgresql_users has for {wrong_passwords[0].get('name', '')} a password with a line break or another control "
            "character; PostgreSQL can't take it."
        )


def reach(s: PostgresqlSettings) -> Iterator[str]:
    if (address := first_wrong(s["postgresql_listen_addresses"], LISTEN_ADDRESS)) is not None:
        yield (
            f"postgresql_listen_addresses has {address}; "
            "an entry is a name or an IP address of the machine, or * for all of them."
        )
    if s.beyond_loopback and not s.with_passwords:
        yield (
            f"postgresql_listen_addresses has {s.beyond_loopback[0]}, but nobody could log in over it; "
            "give one of postgresql_users a password, or listen on localhost only."
        )
    if s["postgresql_networks"] and not s.beyond_loopback:
        yield (
            f"postgresql_networks lets in {s['postgresql_networks'][0]}, but the server would listen on loopback only; "
            "add one of the machine's addresses, or *, to postgresql_listen_addresses."
        )
    certificate, key = "postgresql_tls_certificate_file", "postgresql_tls_key_file"
    yield from pair(s, certificate, key, "set both, or neither for a server without TLS")
    for name in (certificate, key):
        if s.text(name) and not s.is_file(name):
            yield f"{name} names {s[name]}, which is no file on the control node."


def parameters(s: PostgresqlSettings) -> Iterator[str]:
    given = s["postgresql_settings"]
    if owned := [name for name in map(str.lower, map(str, given)) if name in OWNED_PARAMETERS]:
        yield f"postgresql_settings has {owned[0]}, for which there is {OWNED_PARAMETERS[owned[0]]}."
    wrong_values = [
        name
        for name, value in given.items()
        if not isinstance(value, (bool, int, float)) and not re.fullmatch(r"[^\n\r\x00]*", str(value))
    ]
    name = first_wrong(given, PARAMETER)
    if name is not None or wrong_values:
        yield (
            f"postgresql_settings has {wrong_values[0] if name is None else name}; "
            "an entry is a parameter's name with a number, a boolean or one line of text."
        )


RULES = (replication, ranges, contents, reach, parameters)


def wrong(settings: Mapping, role_path: str) -> list[str]:
    """All that is wrong with the settings, whatever machine they are for."""
    return shared.wrong(PostgresqlSettings(settings, role_path), RULES, EXAMPLES)


def wrong_machine(settings: Mapping, role_path: str, state: Mapping, cluster: Mapping, replica: Mapping) -> list[str]:
    """What the settings can't be on a machine.

    Args:
        settings: all of the role.
        role_path: its folder.
        state: what the module postgresql_state found.
        cluster: of that, the cluster that the role has to do with, and its ``version``, empty where the role knows none.
        replica: ``name``, the machine's in the inventory; ``holds``, what its cluster has of its own; and whether that
            ``follows`` a primary, ``begins_to_follow`` one, ``is_rebuilt`` and ``may_be_replaced``.
    """
    s = PostgresqlSettings(settings, role_path)
    return [
        *wrong_system(s, state, cluster),
        *wrong_replica(s, cluster, replica),
        *wrong_contents(s, cluster),
    ]


def wrong_system(s: PostgresqlSettings, state: Mapping, cluster: Mapping) -> Iterator[str]:
    system = state["system"]
    yield from unfit_system(system, "the server")
    if not cluster["version"]:
        yield (
            f"The role does not know the PostgreSQL of {system['name']}; "
            "it knows Debian 12 and 13, Ubuntu 22.04 and 24.04, RHEL 9 and 10."
        )
    if state["networks"]:
        yield f"postgresql_networks has an entry that is no network: {state['networks'][0]}."
    if s.number("postgresql_memory_mb") > system["memory_mb"]:
        yield (
            f"postgresql_memory_mb is {s['postgresql_memory_mb']}, but the machine has {system['memory_mb']} MiB; "
            "take less, or 0 to let the role decide."
        )
    if cluster["error"]:
        yield f"The PostgreSQL that runs on the machine does not answer its superuser: {cluster['error']}"
    if cluster["port_taken"]:
        yield (
            f"PostgreSQL can't listen on port {s['postgresql_port']}, because {cluster['port_taken']} does; "
            "change postgresql_port, or stop what is in the way."
        )


def wrong_replica(s: PostgresqlSettings, cluster: Mapping, replica: Mapping) -> Iterator[str]:
    if replica["follows"] and not s.is_replica:
        yield (
            "The PostgreSQL on this machine follows a primary, and postgresql_primary_host is empty, which makes it one; if that "
            f"is meant, promote it first (`pg_ctlcluster {cluster['version']} main promote` on Debian), otherwise name its "
            "primary."
        )
    if replica["begins_to_follow"] and not replica["is_rebuilt"] and not replica["may_be_replaced"]:
        held = f"has {', '.join(replica['holds'])} of its own" if replica["holds"] else "is stopped"
        yield (
            f"The PostgreSQL on this machine {held}, and a copy of {s['postgresql_primary_host']} (postgresql_primary_host) "
            f"would take its place; if that is meant, run it with -e postgresql_replica_rebuild={replica['name']}."
        )


def wrong_contents(s: PostgresqlSettings, cluster: Mapping) -> Iterator[str]:
    server = cluster["server"]
    there = {name: encoding for name, encoding in server.get("databases", {}).items() if name in s.database_names}
    if other := [(name, encoding) for name, encoding in there.items() if encoding != "UTF8"]:
        yield (
            f"postgresql_databases has {other[0][0]}, which exists with the encoding {other[0][1]} instead of UTF8; "
            "take another name, or dump it and load it into a new database."
        )
    if line := TRUST.search(cluster["access"]):
        yield (
            f"The machine's pg_hba.conf lets in whoever comes with the line `{line[0]}`; "
            "change trust in it to peer or scram-sha-256."
        )
    known = {*s.user_names, *server.get("roles", [])}
    strangers = [owner for each in s["postgresql_databases"] if (owner := str(each.get("owner", ""))) not in known]
    is_stopped = cluster["installed"] and not server  # and can't be asked for its users
    if strangers and not s.is_replica and not is_stopped:
        yield (
            f"postgresql_databases has the owner {strangers[0]}, who is neither one of postgresql_users nor on the server; "
            "add the user."
        )
