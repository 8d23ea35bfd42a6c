# Copyright the authors of this repository
# SPDX-License-Identifier: Apache-2.0
"""Filters that render values for systemd and for MLflow."""

from __future__ import annotations

import re
from collections.abc import Iterable


def env_line(value: object, name: str) -> str:
    """One line of an environment file that systemd and a POSIX shell read alike.

    Both take the four characters that a double-quoted string escapes, and a line end, as they are.
    Source: systemd.exec(5), EnvironmentFile=; POSIX, 2.2.3 Double-Quotes.

    Args:
        value: any text without NUL.
        name: the variable's name.
    """
    return '%s="%s"' % (name, re.sub(r'(["\\`$])', r"\\\1", str(value)))


def systemd_argument(value: object) -> str:
    """A word of an ExecStart= line that reaches the program exactly as it is.

    Source: systemd.service(5), COMMAND LINES: quotes and C escapes, ``$`` doubled, ``%`` doubled.
    """
    text = str(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return '"%s"' % text.replace("$", "$$").replace("%", "%%")


def allowed_hosts(names: Iterable[str]) -> list[str]:
    """The patterns that make MLflow accept each name with and without a port.

    MLflow compares the whole Host header: entries with ``*`` by fnmatch, in which ``[`` opens a
    set of characters, all others letter by letter. A name that carries a port, or ``*`` alone,
    stays as it is. Source: mlflow/server/security_utils.py, is_allowed_host_header.

    Args:
        names: host names, patterns, IPv4 addresses and IPv6 addresses in brackets.
    """
    patterns: list[str] = []
    for name in names:
        patterns.append(name)
        has_port = re.search(r":[\d*]+$", re.sub(r"^\[.*\]", "", name))
        if name != "*" and not has_port:
            patterns.append(re.sub(r"^\[", "[[]", name) + ":*")
    return list(dict.fromkeys(patterns))


class FilterModule:
    """Ansible's way to find the filters."""

    def filters(self) -> dict:
        return {"env_line": env_line, "systemd_argument": systemd_argument, "allowed_hosts": allowed_hosts}
