"""Print as JSON everything that the role decides by. Changes nothing.

The one argument is a JSON object: ``port``, ``listen_addresses`` and ``networks`` as the settings have them.
Memory counts mebibytes; ``loaded`` is the time at which the server last read its configuration.
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
import subprocess
import sys

FAMILIES = {"debian": "debian", "ubuntu": "debian", "rhel": "redhat", "fedora": "redhat", "centos": "redhat"}
LISTENING = "0A"  # the state of a listening socket in /proc/net/tcp; see include/net/tcp_states.h in Linux
ACCOUNT = "postgres"  # of the operating system and of the server, in every distribution
LARGEST = 16 * 1024 * 1024  # characters of a file of that account
QUERY = """
SELECT json_build_object(
  'loaded', pg_conf_load_time()::text,
  'port', current_setting('port')::int,
  'restart_for', (SELECT coalesce(json_agg(name ORDER BY name), '[]') FROM pg_settings WHERE pending_restart),
  'access_errors', (SELECT coalesce(json_agg(error), '[]') FROM pg_hba_file_rules WHERE error IS NOT NULL),
  'roles', (SELECT json_agg(rolname) FROM pg_roles),
  'databases', (SELECT json_object_agg(datname, pg_encoding_to_char(encoding)) FROM pg_database),
  'relations', (SELECT count(*) FROM pg_class WHERE relnamespace::regnamespace::text !~ '^(pg_|information_schema$)'),
  'standby', pg_is_in_recovery(),
  'receiver', (SELECT status FROM pg_stat_wal_receiver),
  'slots', (SELECT coalesce(json_object_agg(slot_name, wal_status), '{}') FROM pg_replication_slots
            WHERE slot_type = 'physical'))
"""


def read(path):
    """The text of a file, or the empty string where it can't be read."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""


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


def run(*command, **options):
    """What a command prints, and whether it succeeded."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, **options)
    return done.stdout if done.returncode == 0 else done.stderr, done.returncode == 0


def read_system():
    release = dict(line.split("=", 1) for line in read("/etc/os-release").splitlines() if "=" in line)
    release = {key: value.strip("\"'") for key, value in release.items()}
    likeness = [release.get("ID", ""), *release.get("ID_LIKE", "").split()]
    memory = dict(line.split(":", 1) for line in read("/proc/meminfo").splitlines())
    return {
        "root": os.geteuid() == 0,
        "systemd": os.path.isdir("/run/systemd/system"),
        "distribution": release.get("ID", ""),
        "version": release.get("VERSION_ID", ""),
        "name": release.get("PRETTY_NAME", "an unknown system"),
        "family": next((FAMILIES[name] for name in likeness if name in FAMILIES), ""),
        "memory_mb": int(memory["MemTotal"].split()[0]) // 1024,
        "has_driver": any(importlib.util.find_spec(name) for name in ("psycopg2", "psycopg")),
    }


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


def listeners(port):
    """Address and inode of each socket that listens on the port."""
    found = []
    for path in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in read(path).splitlines()[1:]:
            fields = line.split()
            address, number = fields[1].split(":")
            if fields[3] == LISTENING and int(number, 16) == port:
                words = [bytes.fromhex(address[i : i + 8])[:: 1 if sys.byteorder == "big" else -1]
                         for i in range(0, len(address), 8)]  # fmt: skip
                found.append((ipaddress.ip_address(b"".join(words)), fields[9]))
    return found


def holder(inode):
    """Number and name of the process that has the socket open."""
    for folder in glob.glob("/proc/[0-9]*/fd"):
        try:
            if any(os.readlink(os.path.join(folder, name)) == f"socket:[{inode}]" for name in os.listdir(folder)):
                return int(folder.split("/")[2]), ascii(read(os.path.join(folder, "../comm")).strip())[1:-1]
        except OSError:
            continue
    return 0, "another process"


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
                return f"{name} (process {pid})" if pid else name
    return ""


def wrong_networks(networks):
    """What is wrong with the networks, in words."""
    found = []
    for network in networks:
        try:
            if "/" not in str(network):
                raise ValueError(f"{network!r} has no prefix length, such as /32")
            ipaddress.ip_network(network)
        except ValueError as error:
            found.append(str(error))
    return found


def main():
    asked = json.loads(sys.argv[1])
    state = {"system": read_system(), "clusters": {}, "networks": wrong_networks(asked["networks"])}
    if state["system"]["root"] and state["system"]["systemd"]:
        state["clusters"] = read_clusters()
    for cluster in state["clusters"].values():
        cluster["port_taken"] = port_taken(asked["port"], asked["listen_addresses"], {cluster["pid"]} - {0})
    state["port_taken"] = port_taken(asked["port"], asked["listen_addresses"], set())
    print(json.dumps(state))


main()
