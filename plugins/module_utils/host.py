# Copyright the authors of this repository
# SPDX-License-Identifier: Apache-2.0
"""The state of the machine, read by every role in this one way. Runs on the machine; standard library only."""

from __future__ import annotations

import glob
import ipaddress
import os
import shutil
import socket
import subprocess
import sys

FAMILIES = {"debian": "debian", "ubuntu": "debian", "rhel": "redhat", "fedora": "redhat", "centos": "redhat"}
LISTENING = "0A"  # the state of a listening socket in /proc/net/tcp; see include/net/tcp_states.h in Linux
SEARCHED = "/usr/sbin:/usr/bin:/sbin:/bin"  # also where Ansible's account has no folder for root's programs in its PATH
SOMEBODY = "another process"


def read(path):
    """The text of a file, or the empty string where it can't be read; bytes that are no UTF-8 stay as they are."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""


def run(*command, **options):
    """What a command prints, its errors where it fails, and whether it succeeded."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, **options)
    except OSError as error:
        return str(error), False
    return (done.stdout, True) if done.returncode == 0 else (done.stderr, False)


def read_system():
    """What the machine is and has.

    Returns:
        ``root``, whether this program is root; ``systemd``, its version, or the empty string where it is not process 1;
        ``distribution``, ``version``, ``id`` (both with a dash), ``name`` and ``family`` of the system, the last one
        empty where it is none that the roles know; ``likeness``, names of the system and of those that it is like;
        ``container``; ``machine``, the processor; ``cores``; ``memory_mb``, in MiB; ``has_ipv6``; ``hostname``,
        ``names`` and ``addresses`` by which others reach it, IPv6 in brackets as a Host header has it.
    """
    lines = [line for line in read("/etc/os-release").splitlines() if "=" in line and line[0] != "#"]
    release = {key: value.strip("\"'") for key, value in (line.split("=", 1) for line in lines)}
    likeness = [release.get("ID", ""), *release.get("ID_LIKE", "").split()]
    memory = dict(line.split(":", 1) for line in read("/proc/meminfo").splitlines())
    systemd = run("systemctl", "--version")[0].split()[1:2] if os.path.isdir("/run/systemd/system") else []
    container = run("systemd-detect-virt", "--container")[0].strip() if systemd else ""
    hostname = socket.gethostname()
    return {
        "root": os.geteuid() == 0,
        "systemd": "".join(systemd),
        "distribution": release.get("ID", ""),
        "version": release.get("VERSION_ID", ""),
        "id": "%s-%s" % (release.get("ID", ""), release.get("VERSION_ID", "")),
        "name": release.get("PRETTY_NAME", "an unknown system"),
        "family": next((FAMILIES[name] for name in likeness if name in FAMILIES), ""),
        "likeness": likeness,
        "container": container not in ("", "none"),
        "machine": os.uname().machine,
        "cores": len(os.sched_getaffinity(0)),
        "memory_mb": int(memory["MemTotal"].split()[0]) // 1024,
        "has_ipv6": bool(read("/proc/net/if_inet6")),
        "hostname": hostname,
        "names": sorted({hostname, hostname.split(".")[0], socket.getfqdn()} - {"localhost", ""}),
        "addresses": read_addresses(),
    }


def read_addresses():
    """The machine's own addresses of global scope."""
    if shutil.which("ip", path=SEARCHED):
        said, _ = run("ip", "-o", "addr", "show", "scope", "global", env={**os.environ, "PATH": SEARCHED})
        addresses = {line.split()[3].split("/")[0] for line in said.splitlines()}
    else:
        addresses = set(run("hostname", "-I")[0].split())
    return sorted("[%s]" % address if ":" in address else address for address in addresses)


def listeners(port):
    """Address and inode of each TCP socket that listens on the port, by the kernel's own table."""
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
    """Number and name of the process that has the socket open; 0 and `SOMEBODY` where that can't be seen.

    The process chooses its name, so what is no ASCII in it is escaped.
    """
    for folder in glob.glob("/proc/[0-9]*/fd"):
        try:
            if any(os.readlink(os.path.join(folder, name)) == "socket:[%s]" % inode for name in os.listdir(folder)):
                return int(folder.split("/")[2]), ascii(read(os.path.join(folder, "../comm")).strip())[1:-1]
        except OSError:
            continue  # the process or the descriptor is gone
    return 0, SOMEBODY


def described(pid, name):
    """A process that `holder` has found, in words."""
    return "%s (process %d)" % (name, pid) if pid else name


def wrong_networks(networks):
    """What is wrong with networks, in words: each has an address and a prefix length."""
    found = []
    for network in networks:
        try:
            if "/" not in str(network):
                raise ValueError("%s has no prefix length, such as /32" % network)
            ipaddress.ip_network(network)
        except ValueError as error:
            found.append(str(error))
    return found


def read_unit(unit):
    """Whether a unit of systemd is ``active``, and ``enabled``."""
    said, _ = run("systemctl", "show", "--property=ActiveState,UnitFileState", unit)
    values = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
    return {"active": values.get("ActiveState") == "active", "enabled": values.get("UnitFileState") == "enabled"}
