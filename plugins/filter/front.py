# Copyright the authors of this repository
# SPDX-License-Identifier: Apache-2.0
"""Filters by which playbooks join fronts and MLflow servers: each knows of the other only what these say."""

from __future__ import annotations

from collections.abc import Mapping

HTTPS = 443
MLFLOW_PORT = 5001  # the default of mlflow_port; a role's defaults are not among other hosts' variables
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
    port = int(hostvars[front].get("haproxy_https_port") or HTTPS)
    return [
        "https://%s%s" % (name.lower(), "" if port == HTTPS else ":%d" % port) for name in front_names(front, hostvars)
    ]


def front_server(server: str, hostvars: Mapping[str, Mapping], front: str) -> dict[str, object]:
    """How a front reaches an MLflow server: over loopback where it is on the same machine.

    Args:
        server: the server's name in the inventory.
        hostvars: Ansible's variables of all hosts.
        front: the front's name in the inventory.
    """
    known = hostvars[server]
    host = str(known.get("mlflow_host") or "127.0.0.1")
    if host in ANYWHERE or host in LOOPBACK or host.startswith("127."):
        host = "127.0.0.1" if server == front and host != "::1" else host
        if server != front:
            host = str(known.get("ansible_host") or server)
    return {"name": server, "address": host, "port": int(known.get("mlflow_port") or MLFLOW_PORT)}


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict:
        return {function.__name__: function for function in (front_names, front_origins, front_server)}
