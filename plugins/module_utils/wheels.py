# Copyright the authors of this repository
# SPDX-License-Identifier: Apache-2.0
"""Which files of a wheelhouse, a folder with wheels, an installation on another machine needs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from packaging import tags  # which ansible-core needs as well
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

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
