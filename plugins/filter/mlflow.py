# Copyright the authors of this repository
# SPDX-License-Identifier: Apache-2.0
"""Filters that render values for systemd, MLflow and its stores."""

from __future__ import annotations

import json
import re
import urllib.parse
from collections.abc import Iterable, Iterator

from packaging import tags  # which ansible-core needs as well
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename


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


def passfile_line(password: object, user: str) -> str:
    """The line of a file for libpq's ``passfile`` with which a user logs in to any server.

    Source: PostgreSQL's manual, The Password File: ``:`` and the backslash take a backslash before them.

    Args:
        password: any text on one line.
        user: the user's name.
    """
    return "*:*:*:%s\n" % ":".join(re.sub(r"([\\:])", r"\\\1", str(text)) for text in (user, password))


def postgres_uri(connection_string: str) -> str:
    """A PostgreSQL connection string as SQLAlchemy wants it, with the installed driver named.

    SQLAlchemy 2.1 takes a bare ``postgresql://`` for psycopg 3 and does not know ``postgres://``.
    User, password, host, database and options stay as they are.
    """
    return re.sub(r"^postgres(ql)?(\+\w+)?://", "postgresql+psycopg2://", connection_string.strip())


def store_name(uri: str, **parts: object) -> str:
    """A store by a name that may be shown: no user, no password, no options.

    Args:
        uri: of the store. What it leaves out comes from ``host``, ``port`` and ``database``. Where it leads to a
            pooler, ``direct`` is the host and port of the server itself, such as ``db.example.com:5432``.
    """
    found = re.match(r"(?P<scheme>\w+)(?:\+\w+)?://(?:.*@)?(?P<place>[^/?]*)/?(?P<name>[^?]*)\??(?P<options>.*)$", uri)
    if found is None or found["scheme"] != "postgresql":
        return uri
    options = urllib.parse.parse_qs(found["options"])
    host, _, port = found["place"].rpartition(":") if ":" in found["place"] else (found["place"], "", "")
    host = options.get("host", [host])[0] or parts.get("host")
    port = port or options.get("port", [""])[0] or parts.get("port")
    database = found["name"] or options.get("dbname", [""])[0] or parts.get("database")
    if parts.get("direct"):
        host, _, port = str(parts["direct"]).rpartition(":")
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


def other_database(uri: str, database: str) -> str:
    """The URI of another database on the same server, with the same user, password and options.

    Args:
        uri: for SQLAlchemy, such as ``postgresql+psycopg2://user:password@host/one?sslmode=require``.
        database: the other one's name.
    """
    address, _, options = uri.partition("?")
    scheme, _, rest = address.partition("://")
    kept = [option for option in options.split("&") if option and not option.startswith("dbname=")]
    other = "%s://%s/%s" % (scheme, rest.partition("/")[0], urllib.parse.quote(database, safe=""))
    return "?".join([other, "&".join(kept)] if kept else [other])


PASSWORD_MINIMUM = 12  # MLflow's; see _validate_password in mlflow/utils/validation.py
PUBLIC_PASSWORD = "password1234"  # what MLflow's admin had in older versions, and which it refuses
USER_KEYS = {"name", "password", "admin", "state", "permissions"}
PERMISSION_KINDS = ("experiments", "registered_models")


def wrong_password(password: object, whose: str) -> str:
    """A sentence about a password that MLflow would not take, without the password; empty where it is right."""
    text = str(password)
    if len(text) < PASSWORD_MINIMUM:
        return "%s has fewer than %d characters, which MLflow refuses; take a longer one." % (whose, PASSWORD_MINIMUM)
    if text == PUBLIC_PASSWORD:
        return "%s is the one that everybody knows from older versions of MLflow; take another one." % whose
    if not text.isascii() or not text.isprintable():
        return "%s has characters beyond ASCII, which MLflow can't read in every request; take others." % whose
    return ""


def wrong_users(users: list, admin: str, permissions: list[str]) -> list[str]:
    """Sentences about entries of ``mlflow_users`` that can't be, without a password in them.

    Args:
        users: the setting.
        admin: name of the admin, who is none of them.
        permissions: names that MLflow knows.
    """
    found: list[str] = []
    seen: set[str] = set()
    for number, user in enumerate(users, 1):
        if not isinstance(user, dict) or not str(user.get("name") or "").strip():
            found.append("Entry %d of mlflow_users has no name." % number)
            continue
        name = str(user["name"])
        found += wrong_user(user, name, permissions)
        if name in seen:
            found.append("mlflow_users has %s twice." % name)
        if name == admin:
            found.append(
                "mlflow_users has %s, who is the admin of mlflow_auth_admin_username; "
                "that one's password is mlflow_auth_admin_password." % name
            )
        seen.add(name)
    return found


def wrong_user(user: dict, name: str, permissions: list[str]) -> list[str]:
    """The same about one entry that has a name."""
    who = "mlflow_users: %s" % name
    found = []
    if re.search(r"[:\s]", name) or not name.isascii() or not name.isprintable():
        found.append("%s is no name that can be sent as one; it has neither a colon nor a space and is ASCII." % who)
    if unknown := sorted(str(key) for key in user if key not in USER_KEYS):
        found.append("%s has %s, which is none of %s." % (who, unknown[0], ", ".join(sorted(USER_KEYS))))
    state = user.get("state", "present")
    if state not in ("present", "absent"):
        found.append("%s has the state %s; it is present or absent." % (who, state))
    if state == "present" and not user.get("password"):
        found.append("%s has no password." % who)
    elif state == "present" and (
        wrong := wrong_password(user["password"], "The password of %s in mlflow_users" % name)
    ):
        found.append(wrong)
    if not isinstance(user.get("admin", False), bool):
        found.append("%s has an admin that is neither true nor false." % who)
    given = user.get("permissions") or {}
    if not isinstance(given, dict) or not all(isinstance(things or {}, dict) for things in given.values()):
        found.append(
            "%s has permissions in another form than {experiments: {NAME: READ}, registered_models: {NAME: READ}}."
            % who
        )
        return found
    for kind, things in given.items():
        if kind not in PERMISSION_KINDS:
            found.append("%s has permissions on %s; they are on %s." % (who, kind, " or ".join(PERMISSION_KINDS)))
            continue
        found += [
            "%s has the permission %s on %s; take one of %s." % (who, permission, thing, ", ".join(permissions))
            for thing, permission in (things or {}).items()
            if permission not in permissions
        ]
    return found


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


# The oldest C library of the systems that MLflow has a Python for is that of RHEL 9: glibc 2.34.
# What wheels called 2.17, 2.12 and 2.5 before PEP 600 is beside them.
MANYLINUX = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
GLIBC_MINORS = range(34, 4, -1)


def wheel_platforms(machine: str) -> list[str]:
    """Platforms of wheels that run on a machine, such as ``x86_64``, with Linux and glibc; best first."""
    names = [name for minor in GLIBC_MINORS for name in ("manylinux_2_%d" % minor, MANYLINUX.get(minor)) if name]
    return ["%s_%s" % (name, machine) for name in [*names, "linux"]]


def locked(lock: str) -> Iterator[tuple[Requirement, str]]:
    """The packages of a requirement file with hashes, each with its ``--hash=`` options; other options are left out."""
    for line in re.sub(r"\\\n", " ", re.sub(r"(?m)(^|\s)#.*$", "", lock)).splitlines():
        requirement, hashes, rest = line.partition("--hash=")
        if requirement.strip() and not requirement.lstrip().startswith("-"):
            yield Requirement(requirement.strip()), hashes + rest


def is_for(requirement: Requirement, python: str, machine: str) -> bool:
    """Whether the requirement's marker lets it be installed; a bound between patch releases counts as both."""
    linux = {**default_environment(), "sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"}
    cpython = {"implementation_name": "cpython", "platform_python_implementation": "CPython"}
    there = {**linux, **cpython, "platform_machine": machine, "python_version": python}
    return requirement.marker is None or any(
        requirement.marker.evaluate({**there, "python_full_version": "%s.%d" % (python, patch)}) for patch in (0, 99)
    )


def wheels(lock: str, files: Iterable[str], python: str, machine: str, extra: Iterable[str] = ()) -> dict[str, list]:
    """Which files of a wheelhouse an installation needs, and what it lacks.

    Args:
        lock: text of the requirements, each with one version.
        files: names of the files in the wheelhouse.
        python: version of the interpreter, such as ``3.11``.
        machine: processor, as ``uname -m`` tells it.
        extra: requirements on top of the lock. What these need in turn is not known before it is resolved, so each
            wheel of a package that the lock does not install belongs to it.

    Returns:
        ``files``, names of the wheels, and ``missing``, requirements for which there is none.
    """
    version = tuple(int(part) for part in python.split("."))
    platforms = wheel_platforms(machine)
    interpreter = "cp%d%d" % version
    supported = [
        *tags.cpython_tags(version, [interpreter], platforms),
        *tags.compatible_tags(version, interpreter, platforms),
    ]
    rank = {tag: number for number, tag in enumerate(supported)}
    there: dict[str, list[tuple]] = {}  # by package: version, rank and name of each wheel that fits
    for file in files:
        try:
            name, found, _build, file_tags = parse_wheel_filename(file)
        except InvalidWheelFilename:
            continue
        if ranks := [rank[tag] for tag in file_tags if tag in rank]:
            there.setdefault(name, []).append((found, min(ranks), file))
    needed: dict[str, str] = {}
    missing: list[str] = []
    extra = [Requirement(text.partition("--hash=")[0].strip()) for text in extra]
    for requirement in [*(one for one, _hashes in locked(lock)), *extra]:
        if not is_for(requirement, python, machine):
            continue
        name = canonicalize_name(requirement.name)
        fitting = [
            wheel
            for wheel in there.get(name, [])
            if not requirement.url and requirement.specifier.contains(wheel[0], True)
        ]
        if not fitting:
            missing.append(requirement.name + str(requirement.specifier))
        elif requirement not in extra:
            needed[name] = min(fitting, key=lambda wheel: wheel[1])[2]
    others = [wheel[2] for name, found in there.items() if name not in needed for wheel in found] if extra else []
    return {"files": sorted([*needed.values(), *others]), "missing": missing}


class FilterModule:
    """Ansible's way to find the filters."""

    def filters(self) -> dict:
        named = (env_line, systemd_argument, allowed_hosts, postgres_uri, store_name, connection_pool, brought_files)
        accounts = (other_database, wrong_password, wrong_users, secret_files, secrets_read)
        named += (change_waits, wheels, passfile_line)
        return {function.__name__: function for function in named + accounts}
