# Copyright the authors of this repository
# SPDX-License-Identifier: Apache-2.0
"""What the settings of the role haproxy can't be, and what it can't be on a machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ansible_collections.mlops.mlflow.plugins.module_utils import settings as shared
from ansible_collections.mlops.mlflow.plugins.module_utils.settings import (
    PORT,
    Settings,
    first_wrong,
    number,
    pair,
    unfit_system,
)

EXAMPLES = {
    "haproxy_names": '["mlflow.example.com"]',
    "haproxy_listen_addresses": '["10.20.0.5"]',
    "haproxy_servers": '[{"name": "a", "address": "10.20.0.6", "port": 5001}]',
    "haproxy_unlimited_networks": '["10.20.0.0/16"]',
    "haproxy_monitoring_networks": '["10.20.0.0/16"]',
    "haproxy_virtual_peers": '["10.20.0.6"]',
    "haproxy_joined_servers": '[{"name": "a", "address": "10.20.0.6", "port": 5001}]',
    "haproxy_joined_peers": '["10.20.0.6"]',
}
COUNTS = (
    "haproxy_server_max_requests",
    "haproxy_max_connections",
    "haproxy_client_max_connections",
    "haproxy_client_max_requests",
    "haproxy_max_body_mb",
    "haproxy_timeout_seconds",
    "haproxy_artifacts_timeout_seconds",
)
CERTIFICATE, KEY = "haproxy_certificate_file", "haproxy_key_file"


def reach(s: Settings) -> Iterator[str]:
    name = first_wrong(s["haproxy_names"], r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
    if name is not None or not s["haproxy_names"]:
        yield (
            f"haproxy_names has {name or 'no name'}; "
            "it needs the host names by which clients reach the front, without port or scheme."
        )
    address = first_wrong(s["haproxy_listen_addresses"], r"\*|[0-9A-Fa-f.:]+")
    if address is not None or not s["haproxy_listen_addresses"]:
        yield (
            f"haproxy_listen_addresses has {address or 'nothing'}; "
            "an entry is an IP address of the machine, or * for all of them."
        )
    prefix, check = s.text("haproxy_path_prefix"), s.text("haproxy_check_path")
    if (
        first_wrong([s["haproxy_path_prefix"]], r"(/[A-Za-z0-9._-]+)*") is not None
        or first_wrong([check], r"(/[A-Za-z0-9._-]+)+") is not None
    ):
        yield (
            f"haproxy_path_prefix is {prefix} and haproxy_check_path is {check}; "
            "they are paths such as /mlflow and /health/ready, without a slash at the end."
        )


def virtual_address(s: Settings) -> Iterator[str]:
    address, listens = s.text("haproxy_virtual_address"), s["haproxy_listen_addresses"]
    if not 1 <= s.number("haproxy_virtual_router_id") <= 255:
        yield f"haproxy_virtual_router_id is {s['haproxy_virtual_router_id']}; take a number from 1 to 255."
    if not address:
        return
    if first_wrong([address], r"(\d{1,3}\.){3}\d{1,3}/\d{1,2}") is not None:
        yield (
            f"haproxy_virtual_address is {address}; "
            "it needs an IPv4 address with its prefix length, such as 10.20.0.100/24."
        )
    if not s["haproxy_virtual_peers"]:
        yield (
            "haproxy_virtual_address moves between fronts, and the playbook joins this one with no other; put another with the "
            "same address into the group haproxy, name it in haproxy_virtual_peers, or leave the address empty."
        )
    if not s.text(CERTIFICATE):
        yield (
            "haproxy_virtual_address wants the same certificate on every front, and a self-signed one is each machine's own; "
            "set haproxy_certificate_file and haproxy_key_file."
        )
    if "*" not in listens and address.split("/")[0] not in listens:
        yield (
            f"haproxy_listen_addresses has {', '.join(map(str, listens))}, but not the haproxy_virtual_address {address}, "
            "on which nobody would answer; add it."
        )


def servers(s: Settings) -> Iterator[str]:
    given = s["haproxy_servers"]
    names = [str(server.get("name", "")) for server in given]
    if not given:
        yield (
            "haproxy_servers is empty, and the playbook joins the front with no MLflow server, since one that listens on loopback "
            "serves its own machine only; set mlflow_host there, or name one, such as [{name: a, address: 10.20.0.5, port: 5001}]."
        )
    wrong_name = first_wrong(names, r"[A-Za-z0-9._-]+")
    wrong_address = first_wrong([server.get("address", "") for server in given], r"[A-Za-z0-9._:-]+")
    if wrong_name is not None or wrong_address is not None:
        yield (
            f"haproxy_servers has {wrong_address if wrong_name is None else wrong_name}; "
            "a name has letters, digits and . _ - only, an address is a host name or an IP address."
        )
    if len(set(names)) < len(names):
        yield "haproxy_servers has a name twice; give each server one of its own."


def ports(s: Settings) -> Iterator[str]:
    own = [s.number(f"haproxy_{kind}_port") for kind in ("https", "http", "monitoring")]
    needed = [own[0], own[2], *(number(server.get("port", 0)) for server in s["haproxy_servers"])]
    wrong_ports = [port for port in needed if not 1 <= port <= PORT[1]]
    wrong_ports += [own[1]] if not 0 <= own[1] <= PORT[1] else []  # 0 is no redirection
    if wrong_ports:
        yield (
            "haproxy_https_port, haproxy_http_port, haproxy_monitoring_port or haproxy_servers has the port "
            f"{wrong_ports[0]}; a TCP port is a number from 1 to 65535."
        )
    used = [port for port in own if port]
    if len(set(used)) < len(used):
        yield "haproxy_https_port, haproxy_http_port and haproxy_monitoring_port must not be the same."


def counts(s: Settings) -> Iterator[str]:
    if wrong_counts := [name for name in COUNTS if first_wrong([s[name]], "[1-9][0-9]*") is not None]:
        yield f"{wrong_counts[0]} must be a whole number of 1 or more."
    if s.number("haproxy_hsts_seconds") < 0:
        yield f"haproxy_hsts_seconds is {s['haproxy_hsts_seconds']}; take 0 or more."


def certificate(s: Settings) -> Iterator[str]:
    yield from pair(s, CERTIFICATE, KEY, "set both, or neither for a self-signed certificate")
    if s.is_file(CERTIFICATE) != s.is_file(KEY):
        yield (
            "Of haproxy_certificate_file and haproxy_key_file only one is a file on the control node; "
            "have both there, or both on the machine."
        )


RULES = (reach, virtual_address, servers, ports, counts, certificate)


def wrong(settings: Mapping, role_path: str) -> list[str]:
    """All that is wrong with the settings, whatever machine they are for."""
    return shared.wrong(Settings(settings, role_path), RULES, EXAMPLES)


def wrong_machine(settings: Mapping, role_path: str, state: Mapping, offered: str, paths: Mapping) -> list[str]:
    """What the settings can't be on a machine.

    Args:
        settings: all of the role.
        role_path: its folder.
        state: what the module haproxy_state found.
        offered: the version of HAProxy that the role knows of this system; empty where it knows none.
        paths: of the role's files there, by what they are for.
    """
    s = Settings(settings, role_path)
    return [*wrong_system(s, state, offered, paths), *wrong_certificate(s, state)]


def wrong_system(s: Settings, state: Mapping, offered: str, paths: Mapping) -> Iterator[str]:
    system, unknown = state["system"], state["unknown_servers"]
    yield from unfit_system(system, "HAProxy")
    if not offered:
        yield f"The role does not know the HAProxy of {system['name']}; it knows Debian 12 and 13."
    # One of several may be gone for a while.
    if len(unknown) >= len({server["address"] for server in s["haproxy_servers"]}):
        yield (
            f"This machine can't resolve {' and '.join(unknown)}, and haproxy_servers has no other to send requests to; "
            "correct the name, or the machine's DNS."
        )
    if state["wrong_networks"]:
        yield (
            "haproxy_monitoring_networks or haproxy_unlimited_networks has an entry that is no network: "
            f"{state['wrong_networks'][0]}."
        )
    if state["ports_taken"]:
        yield (
            f"HAProxy can't listen on {state['ports_taken'][0]}; "
            "stop what is in the way, or change haproxy_https_port, haproxy_http_port or haproxy_monitoring_port."
        )
    somebody_elses = "is somebody else's configuration, which this role would replace; move it away, or"
    if state["config"] == "foreign":
        yield f"{paths['config']} {somebody_elses} have the front on another machine."
    if s.text("haproxy_virtual_address") and state["keepalived"]["config"] == "foreign":
        yield f"{paths['keepalived']} {somebody_elses} leave haproxy_virtual_address empty."
    if state["keepalived"]["wrong"]:
        yield state["keepalived"]["wrong"]


def wrong_certificate(s: Settings, state: Mapping) -> Iterator[str]:
    """About one that the operator brings; the role's own is made anew."""
    found = state["certificate"]
    if not s.text(CERTIFICATE):
        return
    if not (state["has_certificate"] and state["has_key"]):
        yield (
            f"haproxy_certificate_file names {s[CERTIFICATE]} and haproxy_key_file names {s[KEY]}, "
            "which are not both there, neither on the control node nor on the machine."
        )
    elif found["error"]:
        yield f"The certificate of haproxy_certificate_file {found['error']}."
    elif found["missing"]:
        yield (
            f"The certificate of haproxy_certificate_file is for {', '.join(found['names']) or 'no name'}, "
            f"but not for {found['missing'][0]}, which haproxy_names has."
        )
