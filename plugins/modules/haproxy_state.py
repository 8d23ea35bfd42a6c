#!/usr/bin/python
# Copyright the authors of this repository
# SPDX-License-Identifier: Apache-2.0
"""Read everything the role haproxy decides by, in one trip to the machine."""

from __future__ import annotations

DOCUMENTATION = r"""
module: haproxy_state
short_description: Read a machine's HAProxy and judge the certificate that it is to have
description:
  - Returns the machine, what is installed and runs, who holds the ports, and what is wrong with the certificate.
  - Changes nothing, so it does the same in check mode. A private key is never written anywhere.
options:
  certificate:
    description: The certificate with its chain, in PEM, where the control node has it.
    type: str
    default: ""
  key:
    description: Its private key, in PEM, where the control node has it.
    type: str
    default: ""
  certificate_path:
    description: Path on the machine of the certificate, where the machine has it.
    type: path
    default: ""
  key_path:
    description: Path on the machine of its key.
    type: path
    default: ""
  names:
    description: Host names and IP addresses that the certificate has to be for.
    type: list
    elements: str
    required: true
  ports:
    description: TCP ports that HAProxy will listen on.
    type: list
    elements: int
    required: true
  networks:
    description: What ought to be networks.
    type: list
    elements: str
    default: []
  servers:
    description: Addresses or names of the servers that requests go to.
    type: list
    elements: str
    default: []
  config_path:
    description: Path of HAProxy's configuration.
    type: path
    required: true
  certificates_dir:
    description: Folder of the certificates in use.
    type: path
    required: true
  socket:
    description: Path of HAProxy's admin socket.
    type: path
    required: true
  keepalived_path:
    description: Path of keepalived's configuration; without it, nothing is said of keepalived.
    type: path
    default: ""
  peers:
    description: Addresses or names of the other machines that keepalived talks to.
    type: list
    elements: str
    default: []
  interface:
    description: Name of the network interface that is to get the virtual address, where it is given.
    type: str
    default: ""
author: The authors of this repository
"""

EXAMPLES = r"""
- name: Read the state of the machine
  mlops.mlflow.haproxy_state:
    certificate_path: /etc/ssl/mlflow.pem
    key_path: /etc/ssl/mlflow.key
    names: [mlflow.example.com]
    ports: [80, 443]
    config_path: /etc/haproxy/haproxy.cfg
    certificates_dir: /etc/haproxy/certificates
    socket: /run/haproxy/admin.sock
"""

RETURN = r"""
state:
  description: >-
    C(system), C(installed), C(config) (absent, package, ours, foreign), C(unit), C(running), C(ports_taken),
    C(wrong_networks), C(unknown_servers), C(certificate), C(certificate_files) and C(keepalived): C(installed),
    C(active), C(enabled), C(config), the addresses C(peers), C(source) and C(interface) by which they are reached,
    what is C(wrong) with that.
  returned: always
  type: dict
"""

import datetime
import fcntl
import glob
import hashlib
import itertools
import os
import re
import shutil
import socket
import ssl
import struct
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mlops.mlflow.plugins.module_utils import files
from ansible_collections.mlops.mlflow.plugins.module_utils.host import (
    SEARCHED,
    holder,
    listeners,
    read,
    read_system,
    read_unit,
    run,
    wrong_networks,
)

MARK = "# Written by the Ansible role haproxy."
COMMANDS = ("haproxy", "openssl", "kill")
SIOCGIFADDR = 0x8915  # see include/uapi/linux/sockios.h in Linux
PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
SOCKET_SECONDS = 5
ANSWER_LIMIT = 16 * 1024 * 1024  # bytes


class CertificateError(Exception):
    """What is wrong with a certificate or its key; the text is the end of a sentence."""


# The certificate


def in_memory(text):
    """A path under which a text can be opened that is on no disk."""
    descriptor = os.memfd_create("pem")
    os.write(descriptor, text.encode())
    return "/proc/self/fd/%d" % descriptor


def decoded(pem):
    """A certificate's fields, as `ssl.SSLSocket.getpeercert` has them."""
    try:
        return ssl._ssl._test_decode_cert(in_memory(pem))
    except (ssl.SSLError, ValueError) as error:
        raise CertificateError("has a certificate that can't be read (%s)" % error) from error


def fingerprint(der):
    """SHA-256 in the notation of openssl and of browsers."""
    return ":".join(re.findall("..", hashlib.sha256(der).hexdigest().upper()))


def covers(names, wanted):
    """Whether one of a certificate's names stands for the wanted one; see RFC 6125, 6.4.3."""
    wanted = wanted.lower()
    _, _, parent = wanted.partition(".")
    return any(name.lower() in (wanted, "*." + parent if parent else wanted) for name in names)


def describe(chain, now):
    """What a chain, in PEM, says of itself; raises CertificateError where it can't serve."""
    pems = PEM.findall(chain)
    if not pems:
        raise CertificateError("has no certificate in PEM")
    certificates = [decoded(pem) for pem in pems]
    for certificate, issuer in itertools.pairwise(certificates):
        if certificate["issuer"] != issuer["subject"]:
            raise CertificateError("is not in order: each certificate has to be followed by that of its issuer")
    for certificate in certificates:
        if ssl.cert_time_to_seconds(certificate["notAfter"]) <= now:
            raise CertificateError("has expired on %s" % certificate["notAfter"])
        if ssl.cert_time_to_seconds(certificate["notBefore"]) > now + 86400:
            raise CertificateError("is not valid before %s" % certificate["notBefore"])
    end = min(ssl.cert_time_to_seconds(certificate["notAfter"]) for certificate in certificates)
    return {
        "names": [value for kind, value in certificates[0].get("subjectAltName", ()) if kind in ("DNS", "IP Address")],
        "fingerprint": fingerprint(ssl.PEM_cert_to_DER_cert(pems[0])),
        "ends": datetime.datetime.fromtimestamp(end, datetime.timezone.utc).strftime("%Y-%m-%d"),
        "days": int((end - now) // 86400),
    }


def check_pair(chain, key):
    """Raise CertificateError where the key is not the certificate's."""
    if "PRIVATE KEY-----" not in key:
        raise CertificateError("has a key file without a private key in PEM")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(in_memory(chain), in_memory(key), password=lambda: b"")
    except (ssl.SSLError, ValueError, OSError) as error:
        reason = getattr(error, "reason", None) or ""
        if reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"):
            raise CertificateError("has a key that belongs to another certificate") from error
        if "ENCRYPTED" in key:
            raise CertificateError("has a key with a passphrase, which HAProxy could not ask for") from error
        raise CertificateError("or its key can't be used: %s" % (reason or error)) from error


def judge(chain, key, names, now):
    """What is known of a certificate; ``error`` is empty where HAProxy can serve the names with it.

    ``id`` stands for certificate and key together, so that a file named by it never changes.
    """
    try:
        check_pair(chain, key)
        found = describe(chain, now)
    except CertificateError as error:
        return {"error": str(error), "id": "", "fingerprint": "", "names": [], "ends": "", "days": 0, "missing": names}
    missing = [name for name in names if not covers(found["names"], name)]
    identity = hashlib.sha256((chain + "\0" + key).encode()).hexdigest()[:12]
    return {"error": "", "id": identity, "missing": missing, **found}


# What runs


def ask(path, command):
    """What HAProxy answers on its admin socket, or nothing where it does not."""
    said, deadline = b"", time.monotonic() + SOCKET_SECONDS
    try:
        with files.connect(path, SOCKET_SECONDS) as admin:
            admin.sendall(command.encode() + b"\n")
            while time.monotonic() < deadline and len(said) < ANSWER_LIMIT:
                block = admin.recv(65536)
                if not block:
                    return said.decode("utf-8", "replace")
                said += block
    except (OSError, files.Refusal):
        pass
    return ""


def read_running(path):
    """Which configuration the process serves that answers new clients."""
    said = dict(line.split(": ", 1) for line in ask(path, "show info").splitlines() if ": " in line)
    return {"id": said.get("description", ""), "version": said.get("Version", "")}


def whose_config(path, package="haproxy"):
    """Who wrote a configuration: the package, this role, or somebody else."""
    text = read(path)
    if not text:
        return "absent"
    if text.startswith(MARK):
        return "ours"
    listed, _ = run("dpkg-query", "--show", "--showformat=${Conffiles}", package)
    digest = hashlib.md5(text.encode("utf-8", "surrogateescape"), usedforsecurity=False).hexdigest()
    return "package" if "%s %s" % (path, digest) in listed else "foreign"


def port_holders(ports):
    """Sentences about ports on which another program than HAProxy listens."""
    holders = [(port, holder(inode)[1]) for port in ports for _address, inode in listeners(port)]
    return sorted({"port %d, because %s does" % (port, name) for port, name in holders if name != "haproxy"})


def resolve(name, family=socket.AF_INET):
    """An address of a name, or the empty string."""
    try:
        return socket.getaddrinfo(name, None, family)[0][4][0]
    except OSError:
        return ""


# The address that moves


def source_towards(peer):
    """This machine's own address in what it would send to a peer; nothing is sent."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((peer, 9))
            return probe.getsockname()[0]
    except OSError:
        return ""


def interface_of(address):
    """Name of the network interface whose first IPv4 address it is, or the empty string; see netdevice(7)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe, SIOCGIFADDR, struct.pack("256s", name.encode()))
            except OSError:  # it has none
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return ""


def read_keepalived(path, peers, interface):
    """What is there of keepalived, how it would reach its peers, and a sentence on why it would not."""
    installed = bool(shutil.which("keepalived", path=SEARCHED))
    found = {"installed": installed, "config": whose_config(path, "keepalived"), **read_unit("keepalived.service")}
    addresses = {peer: resolve(peer) for peer in peers}
    source = source_towards(addresses[peers[0]]) if peers else ""
    found.update(peers=list(addresses.values()), source=source, interface=interface_of(source), wrong="")
    known = [name for _, name in socket.if_nameindex()]
    if "" in found["peers"]:
        unknown = peers[found["peers"].index("")]
        found["wrong"] = "haproxy_virtual_peers has %s, which this machine can't resolve; name an address." % unknown
    elif peers and found["interface"] in ("", "lo"):
        found["wrong"] = (
            "haproxy_virtual_peers has %s, which this machine reaches by none of its networks; "
            "name an address of the other front in a network that both are in." % peers[0]
        )
    elif interface and interface not in known:
        wrong = "haproxy_virtual_interface is %s, and this machine has %s; take one of them."
        found["wrong"] = wrong % (interface, ", ".join(known))
    return found


def main():
    module = AnsibleModule(
        argument_spec={
            "certificate": {"type": "str", "default": ""},
            "key": {"type": "str", "default": "", "no_log": True},
            "certificate_path": {"type": "path", "default": ""},
            "key_path": {"type": "path", "default": "", "no_log": False},
            "names": {"type": "list", "elements": "str", "required": True},
            "ports": {"type": "list", "elements": "int", "required": True},
            "networks": {"type": "list", "elements": "str", "default": []},
            "servers": {"type": "list", "elements": "str", "default": []},
            "config_path": {"type": "path", "required": True},
            "certificates_dir": {"type": "path", "required": True},
            "socket": {"type": "path", "required": True},
            "keepalived_path": {"type": "path", "default": ""},
            "peers": {"type": "list", "elements": "str", "default": []},
            "interface": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    wanted = module.params
    state = {
        "system": read_system(),
        "installed": all(shutil.which(name, path=SEARCHED) for name in COMMANDS),
        "config": whose_config(wanted["config_path"]),
        "unit": read_unit("haproxy.service"),
        "running": read_running(wanted["socket"]),
        "ports_taken": port_holders(wanted["ports"]),
        "wrong_networks": wrong_networks(wanted["networks"]),
        "unknown_servers": [server for server in wanted["servers"] if not resolve(server, socket.AF_UNSPEC)],
        "has_certificate": bool(wanted["certificate"]) or os.path.exists(wanted["certificate_path"]),
        "has_key": bool(wanted["key"]) or os.path.exists(wanted["key_path"]),
        "certificate": judge(
            wanted["certificate"] or read(wanted["certificate_path"]),
            wanted["key"] or read(wanted["key_path"]),
            wanted["names"],
            time.time(),
        ),
        "keepalived": read_keepalived(wanted["keepalived_path"], wanted["peers"], wanted["interface"]),
        "certificate_files": sorted(glob.glob(os.path.join(wanted["certificates_dir"], "*"))),
    }
    module.exit_json(changed=False, state=state)


if __name__ == "__main__":
    main()
