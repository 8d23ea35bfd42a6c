# Copyright the authors of this repository
# SPDX-License-Identifier: Apache-2.0
"""Filters that say what a role's settings can't be. The rules stand in plugins/module_utils, a module for each role."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from ansible_collections.mlops.mlflow.plugins.module_utils import (
    haproxy_rules,
    mlflow_rules,
    monitoring_rules,
    pgbouncer_rules,
    postgresql_rules,
)

RULES = {
    "haproxy": haproxy_rules,
    "mlflow": mlflow_rules,
    "monitoring": monitoring_rules,
    "pgbouncer": pgbouncer_rules,
    "postgresql": postgresql_rules,
}


def wrong_settings(settings: Mapping, role_path: str) -> list[str]:
    """Sentences about all that a role's settings can't be, whatever machine they are for, without a secret's value.

    Args:
        settings: all of the role, by the lookup ``settings``.
        role_path: the role's folder, whose name is the role's.
    """
    return RULES[Path(role_path).name].wrong(dict(settings), role_path)


def wrong_machine(settings: Mapping, role_path: str, *known: object) -> list[str]:
    """Sentences about all that a role's settings can't be on one machine.

    Args:
        settings: all of the role, by the lookup ``settings``.
        role_path: the role's folder, whose name is the role's.
        known: the machine's state and what else the role's rules want; see ``wrong_machine`` there.
    """
    return RULES[Path(role_path).name].wrong_machine(dict(settings), role_path, *known)


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable]:
        return {"wrong_settings": wrong_settings, "wrong_machine": wrong_machine}
