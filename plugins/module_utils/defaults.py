# Copyright the authors of this repository
# SPDX-License-Identifier: Apache-2.0
"""The defaults of the roles' settings, for what looks at other hosts: their variables have none of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import yaml

ROLES = Path(__file__).resolve().parents[2] / "roles"


def plain(option: str, default: object) -> object:
    """A default without the lookup before it, as in ``{{ __mlflow_dotenv.mlflow_port | default(5001) }}``.

    None where it follows from other settings, as in ``{{ __mlflow_holds_data }}``.
    """
    if re.fullmatch(r"\{\{ \w+ \}\}", str(default)):
        return None
    found = re.fullmatch(r"\{\{ __\w+_dotenv\." + option + r"\s\| default\((.*)\) \}\}", str(default))
    return yaml.safe_load(found[1]) if found else default


@cache
def of_role(role: str) -> dict[str, object]:
    """All defaults of a role, by the settings' names."""
    written = yaml.safe_load((ROLES / role / "defaults" / "main.yml").read_text(encoding="utf-8"))
    return {option: plain(option, default) for option, default in written.items()}


def setting(known: Mapping, name: str) -> object:
    """What a host has for a setting: of its variables in the inventory, or else the default of the role.

    Args:
        known: Ansible's variables of the host.
        name: the setting's, which begins with the role's.
    """
    value = known.get(name)
    return of_role(name.partition("_")[0])[name] if value is None or value == "" else value
