# Copyright the authors of this repository
# SPDX-License-Identifier: Apache-2.0
"""Filters that render values for systemd, MLflow and its stores."""

from __future__ import annotations

import re
import urllib.parse
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


def postgres_uri(connection_string: str) -> str:
    """A PostgreSQL connection string as SQLAlchemy wants it, with the installed driver named.

    SQLAlchemy 2.1 takes a bare ``postgresql://`` for psycopg 3 and does not know ``postgres://``.
    User, password, host, database and options stay as they are.
    """
    return re.sub(r"^postgres(ql)?(\+\w+)?://", "postgresql+psycopg2://", connection_string.strip())


def store_name(uri: str, **parts: object) -> str:
    """A store by a name that may be shown: no user, no password, no options.

    Args:
        uri: of the store. What it leaves out comes from ``host``, ``port`` and ``database``.
    """
    found = re.match(r"(?P<scheme>\w+)(?:\+\w+)?://(?:.*@)?(?P<place>[^/?]*)/?(?P<name>[^?]*)\??(?P<options>.*)$", uri)
    if found is None or found["scheme"] != "postgresql":
        return uri
    options = urllib.parse.parse_qs(found["options"])
    host, _, port = found["place"].rpartition(":") if ":" in found["place"] else (found["place"], "", "")
    host = options.get("host", [host])[0] or parts.get("host")
    port = port or options.get("port", [""])[0] or parts.get("port")
    database = found["name"] or options.get("dbname", [""])[0] or parts.get("database")
    if str(host).startswith("/"):  # the folder of a Unix socket
        return f"postgresql:///{database}?host={host}&port={port}"
    return f"postgresql://{host}:{port}/{database}"


def connection_pool(wanted: dict, workers: int, engines: int, available: int) -> dict:
    """The connection pool of each worker's engines, cut to what the database server has for us.

    A request can need a second connection while it holds the first, so fewer requests at once go
    with a smaller pool.

    Args:
        wanted: ``size``, ``overflow`` and ``requests`` (at once, for each worker) as set.
        workers: processes with pools of their own.
        engines: pools in each worker.
        available: connections that the server has for us; 0 where there is no limit.

    Returns:
        The same keys, and ``cut``: whether less than wanted was there.
    """
    total = wanted["size"] + wanted["overflow"]
    share = min(total, available // (workers * engines)) if available else total
    if share == total:
        return {**wanted, "cut": False}
    size = max(1, min(wanted["size"], share - 1))
    overflow = max(1, share - size)  # MLflow takes 0 for "not set"
    return {"size": size, "overflow": overflow, "requests": max(1, min(wanted["requests"], share // 2)), "cut": True}


def brought_files(wanted: Iterable[dict], contents: dict[str, str]) -> dict[str, dict]:
    """What to write where, of the files that the operator brings.

    Args:
        wanted: ``path`` on the machine and either the text itself, ``secret``, or its ``source``, a
            path; an empty text or source means that there is nothing to write.
        contents: texts of the sources that are on the control node; the others are on the machine.

    Returns:
        By path, ``{"secret": text}`` or ``{"copy_of": path on the machine}``.
    """
    files = {}
    for file in wanted:
        source = file.get("source")
        if file.get("secret") or source in contents:
            files[file["path"]] = {"secret": file.get("secret") or contents[source]}
        elif source:
            files[file["path"]] = {"copy_of": source}
    return files


class FilterModule:
    """Ansible's way to find the filters."""

    def filters(self) -> dict:
        named = (env_line, systemd_argument, allowed_hosts, postgres_uri, store_name, connection_pool, brought_files)
        return {function.__name__: function for function in named}
