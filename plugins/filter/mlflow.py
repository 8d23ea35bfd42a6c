# Copyright the authors of this repository
# SPDX-License-Identifier: Apache-2.0
"""Filters that render values for systemd, MLflow and its stores."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from ansible_collections.mlops.mlflow.plugins.module_utils import (
    mlflow_change,
    mlflow_installation,
    mlflow_stores,
    postgres_address,
    service_files,
)
from ansible_collections.mlops.mlflow.plugins.module_utils.mlflow_settings import MlflowSettings


def mlflow_follows(settings: Mapping, role_path: str, state: Mapping, told: Mapping, *names: str) -> dict[str, object]:
    """What follows from the settings, and from the machine's state where it has been read; see mlflow_installation.py.

    Args:
        settings: all of the role, by the lookup ``settings``.
        role_path: the role's folder.
        state: what the module mlflow_state found, or nothing.
        told: the machine's name, and what is special to its system.
        names: what is wanted of the settings alone; all without.
    """
    wanted = names or mlflow_installation.OF_THE_SETTINGS
    return mlflow_installation.follows(MlflowSettings(settings, role_path), state, told, wanted)


def installation(settings: Mapping, role_path: str, state: Mapping, told: Mapping) -> mlflow_installation.Installation:
    return mlflow_installation.Installation(MlflowSettings(settings, role_path), state, told)


def mlflow_wheels(settings: Mapping, role_path: str, state: Mapping, told: Mapping) -> list[str]:
    """Names of the files in the wheelhouse that the release needs; the arguments are those of `mlflow_follows`."""
    return installation(settings, role_path, state, told).wheels["files"]


def mlflow_service_files(role_path: str) -> dict[str, str]:
    """The program on the machine, as a release carries it; see service_files.py."""
    return service_files.service_files(Path(role_path))


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


def private_files(texts: Mapping[str, Mapping], paths: Iterable[str], group: str) -> list[dict]:
    """Entries for the module ``managed_files``: files that the service may read and nobody else, or that are to go.

    Args:
        texts: by path, the content as the module wants it, such as ``{"secret": text}``.
        paths: all that there may be; one without a content is not needed any more.
        group: the service's.
    """
    return [{"path": path, "group": group, "mode": "0640", **texts.get(path, {"state": "absent"})} for path in paths]


class FilterModule:
    """Ansible's way to find the filters."""

    def filters(self) -> dict:
        own = (mlflow_follows, mlflow_wheels, mlflow_service_files, postgres_address.data_are_here)
        own += (env_line, systemd_argument, passfile_line, brought_files, private_files, secret_files, secrets_read)
        stores = (mlflow_stores.connection_pool, mlflow_stores.wrong_stores)
        changes = (mlflow_change.counted, mlflow_change.given_up, mlflow_change.in_a_unit, mlflow_change.waits)
        changes += (mlflow_change.went_back, mlflow_change.would)
        return {
            **{function.__name__: function for function in (*own, *stores)},
            **{f"change_{function.__name__}": function for function in changes},
        }
