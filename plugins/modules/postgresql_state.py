#!/usr/bin/python
# Copyright the authors of this repository
# SPDX-License-Identifier: Apache-2.0
"""Read everything the role postgresql decides by, in one trip to the machine."""

from __future__ import annotations

DOCUMENTATION = r"""
module: postgresql_state
short_description: Read a machine's PostgreSQL clusters, and what it offers to one
description:
  - Returns the machine, the clusters that the distribution's packages have made, and what runs in them, in one call.
  - Changes nothing, so it does the same in check mode.
options:
  port:
    description: TCP port that the server will listen on.
    type: int
    required: true
  listen_addresses:
    description: Names and addresses that it will listen on, or C(*).
    type: list
    elements: str
    required: true
  networks:
    description: Networks whose clients will be let in.
    type: list
    elements: str
    required: true
author: The authors of this repository
"""

EXAMPLES = r"""
- name: Read the state of the machine
  mlops.mlflow.postgresql_state:
    port: 5432
    listen_addresses: [localhost]
    networks: []
  register: read
"""

RETURN = r"""
state:
  description: >-
    C(system), see plugins/module_utils/host.py, with C(has_driver), whether Ansible's Python there can ask PostgreSQL;
    C(clusters) by their major version; C(networks), what is wrong with some; and C(port_taken), who has the port.
  returned: always
  type: dict
"""

import glob
import importlib.util
import ipaddress
import json
import os
import pwd
import re
import socket
import stat

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mlops.mlflow.plugins.module_utils.host import (
    described,
    holder,
    listeners,
    read_system,
    run,
    wrong_networks,
)

ACCOUNT = "postgres"  # of the operating system and of the server, in every distribution
LARGEST = 16 * 1024 * 1024  # characters of a file of that account
QUERY = """
SELECT json_build_object(
  'port', current_setting('port')::int,
  'roles', (SELECT json_agg(rolname) FROM pg_roles),
  'databases', (SELECT json_object_agg(datname, pg_encoding_to_char(encoding)) FROM pg_database),
  'relations', (SELECT count(*) FROM pg_class WHERE relnamespace::regnamespace::text !~ '^(pg_|information_schema$)'),
  'standby', pg_is_in_recovery(),
  'receiver', (SELECT status FROM pg_stat_wal_receiver),
  'slots', (SELECT coalesce(json_object_agg(slot_name, wal_status), '{}') FROM pg_replication_slots
            WHERE slot_type = 'physical'))
"""


def read_theirs(path):
    """The same of a file in a folder of the server's account: with its rights alone, and nobody waits for a FIFO."""
    try:
        account = pwd.getpwnam(ACCOUNT)
    except KeyError:
        return ""
    groups = os.getgroups()
    os.setgroups(os.getgrouplist(ACCOUNT, account.pw_gid))
    os.setegid(account.pw_gid)
    os.seteuid(account.pw_uid)
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), encoding="utf-8", errors="surrogateescape") as file:
            return file.read(LARGEST) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else ""
    except OSError:
        return ""
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def read_clusters():
    """The clusters that the distributions' packages make, by major version.

    The first of a cluster's units is the one to enable, the last one is the server itself.
    """
    clusters = {}
    for path in glob.glob("/etc/postgresql/*/main/postgresql.conf"):  # Debian
        version = path.split("/")[3]
        clusters[version] = {
            "config_dir": os.path.dirname(path),
            "data_dir": f"/var/lib/postgresql/{version}/main",
            "bin_dir": f"/usr/lib/postgresql/{version}/bin",
            "units": ["postgresql.service", f"postgresql@{version}-main.service"],
        }
    # Red Hat
    version = read_theirs("/var/lib/pgsql/data/PG_VERSION").strip() if os.path.isdir("/var/lib/pgsql/data") else ""
    if version:
        folder = "/var/lib/pgsql/data"
        clusters[version] = {
            "config_dir": folder,
            "data_dir": folder,
            "bin_dir": "/usr/bin",
            "units": ["postgresql.service"],
        }
    return {version: read_cluster(cluster) for version, cluster in clusters.items()}


def read_cluster(cluster):
    settings = read_theirs(os.path.join(cluster["config_dir"], "postgresql.conf"))
    moved = re.search(r"^\s*data_directory\s*=?\s*'([^']+)'", settings, re.MULTILINE)
    if moved:
        cluster["data_dir"] = moved[1]
    active, _ = run("systemctl", "is-active", cluster["units"][-1])
    _, enabled = run("systemctl", "is-enabled", cluster["units"][0])
    cluster.update(
        installed=os.path.exists(os.path.join(cluster["bin_dir"], "postgres")),
        active=active.strip() == "active",
        enabled=enabled,
        has_data=os.path.exists(os.path.join(cluster["data_dir"], "PG_VERSION")),
        standby=os.path.exists(os.path.join(cluster["data_dir"], "standby.signal")),
        reads_conf_d=bool(re.search(r"^\s*include_dir\s*=?\s*'conf\.d'", settings, re.MULTILINE)),
        access=read_theirs(os.path.join(cluster["config_dir"], "pg_hba.conf")),
        accounts=read_theirs(os.path.join(cluster["config_dir"], "pg_ident.conf")),
        pid=0,
        server={},
        error="",
    )
    status = read_theirs(os.path.join(cluster["data_dir"], "postmaster.pid")).splitlines()
    if not (cluster["active"] and cluster["installed"] and len(status) >= 8):
        return cluster
    cluster["pid"] = int(status[0]) if status[0].isdigit() else 0
    answer, answered = query(cluster["bin_dir"], status[4].strip(), status[3].strip())
    if answered:
        cluster["server"] = json.loads(answer)
    else:
        cluster["error"] = " ".join(answer.split())
    return cluster


def query(bin_dir, folder, port):
    account = pwd.getpwnam(ACCOUNT)

    def become():
        os.initgroups(ACCOUNT, account.pw_gid)
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)

    command = [os.path.join(bin_dir, "psql"), "-XAtq", "-w", "-h", folder, "-p", port, "-d", "postgres", "-c", QUERY]
    # Nothing that others have put into the schema public is taken for a function of the server's.
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "PGOPTIONS": "-c search_path=pg_catalog"}
    return run(*command, preexec_fn=become, cwd="/", env=environment)


def wanted_addresses(names):
    """The addresses that the names stand for; None stands for all of them."""
    found = set()
    for name in names:
        if name in ("*", "0.0.0.0", "::"):
            return None
        try:
            found |= {ipaddress.ip_address(entry[4][0].split("%")[0]) for entry in socket.getaddrinfo(name, None)}
        except OSError:
            continue
    return found


def port_taken(port, names, own_pids):
    """Who keeps a server with these processes from listening; empty where nobody does."""
    wanted = wanted_addresses(names)
    for address, inode in listeners(port):
        if wanted is None or address.is_unspecified or address in wanted:
            pid, name = holder(inode)
            if pid not in own_pids:
                return described(pid, name)
    return ""


def main():
    module = AnsibleModule(
        argument_spec={
            "port": {"type": "int", "required": True},
            "listen_addresses": {"type": "list", "elements": "str", "required": True},
            "networks": {"type": "list", "elements": "str", "required": True},
        },
        supports_check_mode=True,
    )
    asked = module.params
    state = {"system": read_system(), "clusters": {}, "networks": wrong_networks(asked["networks"])}
    state["system"]["has_driver"] = any(importlib.util.find_spec(name) for name in ("psycopg2", "psycopg"))
    if state["system"]["root"] and state["system"]["systemd"]:
        state["clusters"] = read_clusters()
    for cluster in state["clusters"].values():
        cluster["port_taken"] = port_taken(asked["port"], asked["listen_addresses"], {cluster["pid"]} - {0})
    state["port_taken"] = port_taken(asked["port"], asked["listen_addresses"], set())
    module.exit_json(changed=False, state=state)


if __name__ == "__main__":
    main()
