# Copyright the authors of this repository
# SPDX-License-Identifier: Apache-2.0
"""What the settings of the role monitoring can't be, and what it can't be on a machine."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from ansible_collections.mlops.mlflow.plugins.module_utils import settings as shared
from ansible_collections.mlops.mlflow.plugins.module_utils.settings import IMAGINABLE, Settings, first_wrong

ADDRESS = r"[^\s/\"']+:\d{1,5}"
TARGETS = ("alertmanagers", "mlflow_targets", "node_targets", "postgres_targets")
LISTS = (*TARGETS, "joined_targets")
EXAMPLES = {
    "monitoring_parts": '["prometheus", "node"]',
    **{f"monitoring_{name}": '["mlflow.example.com:443"]' for name in LISTS},
}
PARTS = ("prometheus", "node", "postgres")
AT_LEAST_ONE = (1, IMAGINABLE, "take 1 or more")
PERCENT = (1, 99, "take 1 to 99")
RANGES = {
    "monitoring_retention_days": AT_LEAST_ONE,
    "monitoring_interval_seconds": AT_LEAST_ONE,
    "monitoring_alert_after_seconds": AT_LEAST_ONE,
    "monitoring_alert_latency_seconds": AT_LEAST_ONE,
    "monitoring_alert_backup_age_hours": AT_LEAST_ONE,
    "monitoring_alert_certificate_days": AT_LEAST_ONE,
    "monitoring_alert_error_percent": PERCENT,
    "monitoring_alert_connections_percent": PERCENT,
    "monitoring_alert_disk_free_percent": PERCENT,
}


def parts(s: Settings) -> Iterator[str]:
    if unknown := [part for part in s["monitoring_parts"] if part not in PARTS]:
        yield f"monitoring_parts has {unknown[0]}; take prometheus, node or postgres."


def addresses(s: Settings) -> Iterator[str]:
    listens = [f"monitoring_{part}_listen" for part in PARTS]
    if wrong_listens := [name for name in listens if first_wrong([s[name]], ADDRESS) is not None]:
        name = wrong_listens[0]
        yield f"{name} is {s[name]}; it is an address and a port, such as 127.0.0.1:9090."
    targets = [target for name in TARGETS for target in s[f"monitoring_{name}"]]
    if (target := first_wrong(targets, ADDRESS)) is not None:
        yield f"The targets have {target}; an entry is a name or an address with a port, such as mlflow.example.com:443."
    if re.search(r"[\n\r']", s.text("monitoring_postgres_source")):
        yield "monitoring_postgres_source has a line break or a quote; the exporter's settings file can't have it."


def ranges(s: Settings) -> Iterator[str]:
    yield from s.out_of_range(RANGES)


def wrong(settings: Mapping, role_path: str) -> list[str]:
    """All that is wrong with the settings, whatever machine they are for."""
    return shared.wrong(Settings(settings, role_path), (parts, addresses, ranges), EXAMPLES)


def wrong_machine(_settings: Mapping, _role_path: str, system: Mapping, missing: list[str]) -> list[str]:
    """What can't be on a machine.

    Args:
        system: see ``read_system`` in host.py.
        missing: paths of files that the settings name and that are not there.
    """
    if "debian" not in system["likeness"]:
        return [
            "The role knows Prometheus as Debian and Ubuntu package it, and this machine has neither; leave monitoring_parts "
            "empty and scrape it from elsewhere."
        ]
    named = "monitoring_mlflow_ca_file or monitoring_mlflow_token_file names"
    return [f"{named} {missing[0]}, which is no file on the machine."] if missing else []
