# Copyright the authors of this repository
# SPDX-License-Identifier: Apache-2.0
"""Filters that render values for systemd, MLflow and its stores."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from ansible_collections.mlops.mlflow.plugins.module_utils import mlflow_installation, postgres_address
from ansible_collections.mlops.mlflow.plugins.module_utils.mlflow_settings import MlflowSettings


def mlflow_follows(settings: Mapping, role_path: str, state: Mapping, told: Mapping) -> dict[str, object]:
    """What follows from the settings, and from the machine's state where it has been read; see mlflow_installation.py.

    Args:
        settings: all of the role, by the lookup ``settings``.
        role_path: the role's folder.
        state: what the module mlflow_state found, or nothing.
        told: what a playbook knows of other machines, and what is special to the system.
    """
    return mlflow_installation.follows(MlflowSettings(settings, role_path), state, told)


def installation(settings: Mapping, role_path: str, state: Mapping, told: Mapping) -> mlflow_installation.Installation:
    return mlflow_installation.Installation(MlflowSettings(settings, role_path), state, told)


def mlflow_wheels(settings: Mapping, role_path: str, state: Mapping, told: Mapping) -> list[str]:
    """Names of the files in the wheelhouse that the release needs; the arguments are those of `mlflow_follows`."""
    return installation(settings, role_path, state, told).wheels["files"]


def mlflow_service_files(role_path: str) -> dict[str, str]:
    """The program on the machine, as a release carries it; see mlflow_installation.py."""
    return mlflow_installation.service_files(Path(role_path))


def database_is_here(settings: Mapping) -> bool:
    """Whether a server's metadata are on its own machine, by its settings or by Ansible's variables of the host."""
    address = postgres_address.of_server(settings)
    return settings.get("mlflow_backend_store") != "postgresql" or (address is not None and address.is_here)


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


def passfile_line(password: object, user: str) -> str:
    """The line of a file for libpq's ``passfile`` with which a user logs in to any server.

    Source: PostgreSQL's manual, The Password File: ``:`` and the backslash take a backslash before them.

    Args:
        password: any text on one line.
        user: the user's name.
    """
    return "*:*:*:%s\n" % ":".join(re.sub(r"([\\:])", r"\\\1", str(text)) for text in (user, password))


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


SECRET_LENGTH = 48  # random letters, digits, - and _: 288 bits


def secret_files(
    secrets: Iterable[dict], folder: str, group: str, renewed: Iterable[str], shared: dict[str, str] | None = None
) -> list[dict]:
    """Entries for the module ``managed_files``: one file for each of the machine's own secrets.

    Args:
        secrets: ``name``, ``value`` (empty for one that is made on the machine) and ``root_only``.
        folder: where the files are.
        group: that may read those which are not for root only.
        renewed: names of those to make anew.
        shared: those that several servers have in common, by name.
    """
    files = []
    for secret in secrets:
        name = secret["name"]
        value = str(secret["value"]) or (shared or {}).get(name, "")
        content = {"secret": value} if value else {"random": SECRET_LENGTH, "renew": name in renewed}
        readers = {"mode": "0600"} if secret.get("root_only") else {"group": group, "mode": "0640"}
        files.append({"path": "%s/%s" % (folder, name.replace("_", "-")), **content, **readers})
    return files


def secrets_read(said: str) -> dict[str, str]:
    """Secrets by their names, from what ``grep --recursive "" FOLDER`` says of their files."""
    found = {}
    for line in said.splitlines():
        path, _, value = line.partition(":")
        found[path.rpartition("/")[2].replace("-", "_")] = value
    return found


def change_waits(result: dict) -> str:
    """What a change that is told step by step waits for, of the program's registered result.

    Returns:
        See ``Report.waits`` in mlflow_service/change.py; ``ended`` where it has been taken up, ``failed`` where it was
        given up, and the empty string where nothing is known, such as of a task that was skipped.
    """
    report = json.loads(result.get("stdout") or "{}")
    if report.get("failed"):
        return "failed"
    return "ended" if report.get("ended") else report.get("waits", "")


class FilterModule:
    """Ansible's way to find the filters."""

    def filters(self) -> dict:
        of_the_role = (mlflow_follows, mlflow_wheels, mlflow_service_files)
        of_stores = (database_is_here, connection_pool)
        of_files = (env_line, systemd_argument, passfile_line, brought_files, secret_files, secrets_read)
        return {function.__name__: function for function in (*of_the_role, *of_stores, *of_files, change_waits)}
