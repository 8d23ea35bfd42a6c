# Copyright the authors of this repository
# SPDX-License-Identifier: Apache-2.0
"""Filters by which playbooks join fronts, MLflow servers and databases: each knows of others only what these say."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping

from ansible_collections.mlops.mlflow.plugins.module_utils import postgres_address
from ansible_collections.mlops.mlflow.plugins.module_utils.defaults import setting
from ansible_collections.mlops.mlflow.plugins.module_utils.settings import is_true

HTTPS = 443
WORKERS = 4  # of a server whose inventory leaves them to the role
SPARE = 4  # connections beside the pools': the deep check, a backup
ANYWHERE = ("0.0.0.0", "::")
LOOPBACK = ("localhost", "::1")


def front_names(front: str, hostvars: Mapping[str, Mapping]) -> list[str]:
    """Names by which clients reach a front.

    Args:
        front: its name in the inventory.
        hostvars: Ansible's variables of all hosts.
    """
    names = hostvars[front].get("haproxy_names") or [front]
    return [names] if isinstance(names, str) else [str(name) for name in names]


def front_origins(front: str, hostvars: Mapping[str, Mapping]) -> list[str]:
    """What a browser that was at a front gives as the origin of a request; see RFC 6454."""
    port = int(setting(hostvars[front], "haproxy_https_port"))
    return [
        "https://%s%s" % (name.lower(), "" if port == HTTPS else ":%d" % port) for name in front_names(front, hostvars)
    ]


def front_server(server: str, hostvars: Mapping[str, Mapping], front: str) -> dict[str, object]:
    """How a front reaches an MLflow server: over loopback where it is on the same machine; nothing where it can't.

    A server that listens on loopback serves its own machine's front alone, so that an inventory may have several
    machines that have nothing to do with each other.

    Args:
        server: the server's name in the inventory.
        hostvars: Ansible's variables of all hosts.
        front: the front's name in the inventory.
    """
    known = hostvars[server]
    host = str(
        known.get("mlflow_host") or (ANYWHERE[0] if known.get("mlflow_dotenv") else setting(known, "mlflow_host"))
    )
    on_loopback = host in LOOPBACK or host.startswith("127.")
    if server == front:
        host = host if host == "::1" or not (on_loopback or host in ANYWHERE) else "127.0.0.1"
    elif on_loopback:
        return {}
    elif host in ANYWHERE:
        host = str(known.get("ansible_host") or server)
    return {"name": server, "address": host, "port": int(setting(known, "mlflow_port"))}


def front_peers(front: str, hostvars: Mapping[str, Mapping], fronts: Iterable[str]) -> list[str]:
    """Where a front reaches the others that have the same virtual address.

    Args:
        front: its name in the inventory.
        hostvars: Ansible's variables of all hosts.
        fronts: names of all of them.
    """
    address = hostvars[front].get("haproxy_virtual_address")
    others = [each for each in fronts if each != front and hostvars[each].get("haproxy_virtual_address") == address]
    return [str(hostvars[each].get("ansible_host") or each) for each in others]


def shared_store(known: Mapping, postgres_host: str = "") -> tuple:
    """The PostgreSQL on another machine that a server keeps its metadata in; empty where its data are its own.

    Poolers that stand before it make no difference: it is the server itself that counts.

    Args:
        known: Ansible's variables of the server.
        postgres_host: what ``mlflow_postgres_host`` is where the inventory does not say it.
    """
    address = postgres_address.of_server(known, postgres_host or postgres_address.SOCKET_FOLDER)
    return () if address is None or address.is_here else (address.host.lower(), address.port, address.database)


def same_store(server: str, hostvars: Mapping[str, Mapping], servers: Iterable[str], postgres_host: str = "") -> list:
    """The servers that keep their metadata where this one does, in their order; this one alone where that is its own.

    One that the inventory wants removed is none of them.

    Args:
        server: its name in the inventory.
        hostvars: Ansible's variables of all hosts.
        servers: names of all of them.
        postgres_host: see `shared_store`.
    """
    known = {each: hostvars.get(each) or {} for each in [server, *servers]}
    there = [each for each in known if known[each].get("mlflow_state") != "absent"]
    stores = {each: shared_store(known[each], postgres_host) for each in there}
    return [each for each in servers if stores.get(server) and stores.get(each) == stores[server]] or [server]


def database_wanted(
    servers: Iterable[str], hostvars: Mapping[str, Mapping], machines: Iterable[str], poolers: Iterable[str] = ()
) -> dict:
    """What MLflow servers want of a PostgreSQL on a machine of its own.

    Those that name a connection string or have a PostgreSQL on their own machine want nothing; those that name one
    elsewhere only that they may come.

    Args:
        servers: their names in the inventory.
        hostvars: Ansible's variables of all hosts.
        machines: those of the inventory that PostgreSQL is on.
        poolers: machines that come in their place, while the servers come themselves for backups and migrations.

    Returns:
        What `wanted_by` says; ``unnamed``, servers that say nothing of where their PostgreSQL is; and ``elsewhere``,
        those whose PostgreSQL, as they say it, is on none of the machines.
    """
    poolers = list(poolers)
    known_names = {name for each in [*machines, *poolers] for name in machine_names(each, hostvars)}
    hosts = {each: database_host(hostvars[each]).lower() for each in servers if uses_database(hostvars[each])}
    those = [each for each, host in hosts.items() if not host or known_names & set(host.split(","))]
    elsewhere = [each for each in hosts if each not in those]
    wanted, others = wanted_by(those, hostvars, poolers), wanted_by(elsewhere, hostvars)
    return {
        **wanted,
        # By a name that the inventory lacks, one of the others may use this PostgreSQL all the same: it is not cut off.
        "connections": wanted["connections"] + others["connections"],
        "networks": wanted["networks"] + others["networks"],
        "unnamed": [each for each, host in hosts.items() if not host],
        "elsewhere": elsewhere,
    }


def machine_names(machine: str, hostvars: Mapping[str, Mapping]) -> set[str]:
    """What the inventory calls a machine with PostgreSQL or a pooler: its names, and the addresses it listens on."""
    known = hostvars[machine]
    names = {machine, str(known.get("ansible_host") or machine)}
    for listens in ("postgresql_listen_addresses", "pgbouncer_listen_addresses"):
        names.update(map(str, known.get(listens) or []))
    return {name.lower() for name in names} - {"*", *ANYWHERE}


def wanted_by(those: list[str], hostvars: Mapping[str, Mapping], poolers: Iterable[str] = ()) -> dict:
    """What MLflow servers want of the one PostgreSQL that they use.

    Args:
        those: their names in the inventory.
        hostvars: Ansible's variables of all hosts.
        poolers: see `database_wanted`.

    Returns:
        ``databases`` and ``users`` as the role postgresql wants them; ``connections``, how many all servers may
        open, past a pooler only a few; ``pooled``, how many the poolers may; ``networks``, one for each server and
        pooler whose address the inventory has; ``unknown``, the others; ``disputed``, the names of users that have
        several passwords, each with the servers that give them.
    """
    owners: dict[str, str] = {}
    passwords: dict[str, dict[str, str]] = {}  # by user and server
    for server in those:
        known = hostvars[server]
        user = str(setting(known, "mlflow_postgres_user"))
        given = passwords.setdefault(user, {})
        if password := str(known.get("mlflow_postgres_password") or ""):
            given[server] = password
        owners[str(setting(known, "mlflow_postgres_database"))] = user
        if is_true(known.get("mlflow_auth_enabled")):
            owners[str(setting(known, "mlflow_auth_database"))] = user
    addresses = {each: own_network(each, hostvars) for each in [*those, *poolers]}
    return {
        "databases": [{"name": name, "owner": owner} for name, owner in owners.items()],
        "users": [{"name": user, "password": next(iter(given.values()), "")} for user, given in passwords.items()],
        "disputed": {user: list(given) for user, given in passwords.items() if len(set(given.values())) > 1},
        "connections": sum(
            SPARE if past_pooler(known) else connections_wanted(known) for known in map(hostvars.get, those)
        ),
        "pooled": len(owners)
        * sum(int(setting(hostvars[pooler], "pgbouncer_server_connections")) for pooler in poolers),
        "networks": [address for address in addresses.values() if address],
        "unknown": [each for each, address in addresses.items() if not address],
    }


def uses_database(known: Mapping) -> bool:
    """Whether an MLflow server, by its variables, uses a PostgreSQL on another machine by its single settings."""
    alone = is_true(known.get("postgresql_install")) or known.get("mlflow_postgres_connection_string")
    return (
        known.get("mlflow_backend_store") == "postgresql"
        and not alone
        and not postgres_address.is_local(database_host(known))
    )


def database_host(known: Mapping) -> str:
    """Where an MLflow server's PostgreSQL itself is, by its variables; empty where they do not say it."""
    return str(known.get("mlflow_postgres_direct_host") or known.get("mlflow_postgres_host") or "")


def past_pooler(known: Mapping) -> bool:
    """Whether an MLflow server, by its variables, uses a pooler and knows the way past it."""
    return bool(known.get("mlflow_postgres_direct_host"))


def pooler_wanted(servers: Iterable[str], hostvars: Mapping[str, Mapping]) -> dict:
    """What MLflow servers want of a pooler; as `wanted_by`, of those that name PostgreSQL itself beside one.

    Args:
        servers: their names in the inventory.
        hostvars: Ansible's variables of all hosts.

    Returns:
        ``databases`` and ``users`` as the role pgbouncer wants them, and the rest of `wanted_by`.
    """
    those = [each for each in servers if past_pooler(hostvars[each]) and uses_database(hostvars[each])]
    known = hostvars[those[0]] if those else {}
    port = int(known.get("mlflow_postgres_direct_port") or postgres_address.PORT)
    itself = {"host": str(known.get("mlflow_postgres_direct_host") or ""), "port": port}
    wanted = wanted_by(those, hostvars)
    return {
        **wanted,
        "databases": [{"name": each["name"], **itself} for each in wanted["databases"]],
        "connections": sum(connections_wanted(hostvars[server]) for server in those),
    }


def database_replicas(hosts: Iterable[str], hostvars: Mapping[str, Mapping], networks: list[str]) -> list[dict]:
    """The replicas of a primary, as the role postgresql wants them.

    Args:
        hosts: their names in the inventory.
        hostvars: Ansible's variables of all hosts.
        networks: where those come from whose address the inventory does not have.
    """
    return [
        {"name": slot_name(host), "networks": [own] if (own := own_network(host, hostvars)) else networks}
        for host in hosts
    ]


def slot_name(host: str) -> str:
    """A replication slot's name for a host: PostgreSQL takes lower-case letters, digits and ``_``."""
    return re.sub(r"[^a-z0-9_]", "_", host.lower())[:63]


def own_network(host: str, hostvars: Mapping[str, Mapping]) -> str:
    """A host's address as a network, where the inventory has an address and not only a name."""
    try:
        return str(ipaddress.ip_network(str(hostvars[host].get("ansible_host") or host)))
    except ValueError:
        return ""


def connections_wanted(known: Mapping) -> int:
    """The most connections that a server opens (mlflow_database_pool_size), with 4 workers where its cores decide."""
    pools = 2 + is_true(known.get("mlflow_jobs_enabled")) + is_true(known.get("mlflow_auth_enabled"))
    size = sum(int(setting(known, f"mlflow_database_pool_{part}")) for part in ("size", "overflow"))
    return (int(known.get("mlflow_workers") or 0) or WORKERS) * pools * size + SPARE


FILTERS = (front_names, front_origins, front_peers, front_server, same_store)
FILTERS += (database_wanted, database_replicas, slot_name, pooler_wanted)


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict:
        return {function.__name__: function for function in FILTERS}
