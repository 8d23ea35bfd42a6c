# Copyright the authors of this repository
# SPDX-License-Identifier: Apache-2.0
"""What follows from the settings of the role mlflow on one machine: which release, how many workers, what is due."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path

from ansible_collections.mlops.mlflow.plugins.module_utils import mlflow_environment, postgres_address, wheels
from ansible_collections.mlops.mlflow.plugins.module_utils.mlflow_settings import MlflowSettings, version
from ansible_collections.mlops.mlflow.plugins.module_utils.service_files import service_files

PYTHON_MINIMUM = "3.10"  # MLflow 3's
BASE_MB = 500  # of memory for the machine and the server's main process, in MiB
WORKER_MB = 250  # of memory for each worker, in MiB
FEWEST_WORKERS, MOST_WORKERS = 2, 8  # that the role takes by itself
SPARE_CONNECTIONS = 4  # beside the pools': the deep check, a backup
CA_BUNDLES = {"debian": "/etc/ssl/certs/ca-certificates.crt"}  # of the system, by its family
CA_BUNDLE = "/etc/pki/tls/certs/ca-bundle.crt"  # of RHEL and its kin
RELEASE = re.compile(r"(?P<version>.*)-[0-9a-f]{12}$")  # the name of one

# What `follows` has under these names
OF_THE_SETTINGS = (
    *("address", "folders", "listen", "paths", "private_paths", "rollback_dir", "url"),
    *("on_postgres", "pool_wanted", "pools_per_worker", "postgres_host", "own_database", "store"),
    *("auth_uri", "metrics_token_file", "rotate", "secrets", "secrets_kept"),
    *("artifacts", "artifacts_are_local", "elsewhere", "on_google", "writable"),
    *("brought", "expected_files", "google_auth", "sources_here", "wheelhouse"),
)
OF_THE_MACHINE = (
    *("lock_file", "packages", "python_path", "release", "release_dir"),
    *("connections_wanted", "environment", "is_first", "workers"),
    *("account_due", "backups", "switches", "timers_due", "timers_wanted", "units_off"),
)


class Installation:
    """What follows from settings, of which a playbook tells some (mlflow_servers), and from a machine's state.

    Args:
        settings: the role's.
        state: what the module mlflow_state found.
        told: ``name``, the machine's in the inventory; ``python_package`` and ``venv_packages``, what its distribution
            has beside its own Python.
    """

    def __init__(self, settings: MlflowSettings, state: Mapping, told: Mapping) -> None:
        self.settings, self.state, self.told = settings, state, told
        self.system = state["system"]

    # The interpreter: the machine's own, or the package that the distribution has for it
    @cached_property
    def python_fits(self) -> bool:
        found, least = version(self.state["python"]["version"]), version(PYTHON_MINIMUM)
        return found is not None and found >= least

    @cached_property
    def python_path(self) -> str:
        return self.state["python"]["path"] if self.python_fits else f"/usr/bin/{self.told['python_package']}"

    @cached_property
    def python_version(self) -> str:
        """Such as ``3.11``; empty where there is none and the distribution has none."""
        of_package = re.search(r"\d+\.\d+$", self.told["python_package"])
        found = re.match(r"\d+\.\d+", self.state["python"]["version"]) if self.python_fits else of_package
        return found[0] if found else ""

    @cached_property
    def packages(self) -> list[str]:
        """What the distribution's Python lacks."""
        if not self.python_fits:
            return [self.told["python_package"]]
        return [] if self.state["python"]["has_venv"] else list(self.told["venv_packages"])

    # The release: everything that goes into it decides its name, so that a name stands for one content.
    @cached_property
    def release(self) -> str:
        s = self.settings
        content = [s.lock, s["mlflow_extra_packages"], self.python_version, service_files(s.role_path)]
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        return f"{s['mlflow_version']}-{digest[:12]}"

    @cached_property
    def release_dir(self) -> str:
        return f"{self.settings['mlflow_install_dir']}/releases/{self.release}"

    @cached_property
    def lock_file(self) -> str:
        return str(self.settings.lock_file)

    @cached_property
    def current_version(self) -> str:
        """MLflow's version in the release that is in use; empty where there is none."""
        found = RELEASE.match(self.state["current"])
        return found["version"] if found else self.state["current"]

    @cached_property
    def wheels(self) -> dict[str, list]:
        """What the release needs of the wheelhouse, if there is one, and a release to build; see `wheels.wheels`."""
        s = self.settings
        if not s.wheelhouse or self.release in self.state["releases"] or not self.python_version:
            return {"files": [], "missing": []}
        there = [path.name for path in Path(s.wheelhouse).glob("*.whl")]
        locks = f"{s.lock}\n{(s.role_path / 'files/locks/uv.txt').read_text(encoding='utf-8')}"
        return wheels.wheels(locks, there, self.python_version, self.system["machine"], s["mlflow_extra_packages"])

    # The server
    @cached_property
    def workers(self) -> int:
        wanted = self.settings.number("mlflow_workers")
        room = max(1, (self.system["memory_mb"] - BASE_MB) // WORKER_MB)
        return wanted or min(max(FEWEST_WORKERS, self.system["cores"]), MOST_WORKERS, room)

    @cached_property
    def connections_wanted(self) -> int:
        """Connections that a PostgreSQL should offer to this server; a playbook that installs one can ask for it."""
        pool = self.settings.pool_wanted["size"] + self.settings.pool_wanted["overflow"]
        return self.workers * self.settings.pools_per_worker * pool + SPARE_CONNECTIONS

    @cached_property
    def is_first(self) -> bool:
        """Whether it is the first of the servers that share its store."""
        return self.settings["mlflow_servers"][0] == self.told["name"]

    @cached_property
    def environment(self) -> dict[str, object]:
        """See `server_environment`; with the connection pools that the settings want."""
        s = self.settings
        own = ["localhost", "127.0.0.1", "[::1]", *self.system["names"], *self.system["addresses"]]
        return mlflow_environment.server_environment(
            s,
            workers=self.workers,
            allowed_hosts=allowed_hosts([*own, *s["mlflow_front_names"], *s["mlflow_allowed_hosts"]]),
            origins=s["mlflow_front_origins"],
            system_ca_bundle=CA_BUNDLES.get(self.system["family"], CA_BUNDLE),
            is_first=self.is_first,
            pool=s.pool_wanted,
        )

    # What is due
    @cached_property
    def account_due(self) -> bool:
        """Whether the account, or what it has in the folders, is not yet as it should be."""
        account, data = self.state["account"], self.state["data"]
        return not (account["group"] and account["user"]) or str(data["stranger"]) != "" or bool(data["closed"])

    @cached_property
    def switches(self) -> bool:
        """Whether another store is in use than the one that the settings name."""
        used = self.state["store"]["name"]
        return used != "" and self.settings.store not in (used, renamed(used))

    @cached_property
    def units_off(self) -> bool:
        """Whether the server's units do not run, or would not after a boot."""
        units = [self.state["units"][unit] for unit in ("mlflow.socket", "mlflow.service")]
        return any((unit["ActiveState"], unit["UnitFileState"]) != ("active", "enabled") for unit in units)

    @cached_property
    def timers_wanted(self) -> list[str]:
        """Timers that are to be on. The first of several servers alone does what is done to the store they share."""
        s = self.settings
        wanted = {
            "mlflow-backup.timer": s.flag("mlflow_backup_enabled") and self.is_first,
            "mlflow-gc.timer": s.flag("mlflow_gc_enabled") and self.is_first,
            "mlflow-check.timer": s.flag("mlflow_check_enabled"),
        }
        return [timer for timer, on in wanted.items() if on]

    @cached_property
    def backups(self) -> str:
        """When the next backup is, where it goes and how many stay; or that there is none, why, and what changes it."""
        s = self.settings
        if not s.flag("mlflow_backup_enabled"):
            if s.holds_data:
                return "none: mlflow_backup_enabled is false; set it to true"
            return (
                f"none: the data are not on this machine but in {s.store}; "
                "set mlflow_backup_enabled to true to have them here"
            )
        if not self.is_first:
            first = s["mlflow_servers"][0]
            return f"none here: those of the shared store are for {first} to make, the first of mlflow_servers"
        places = [s.text("mlflow_backup_dir"), s.text("mlflow_backup_location").rstrip("/")]
        moment = self.state["elapses"].get(s.text("mlflow_backup_schedule"), "") or s.text("mlflow_backup_schedule")
        return f"next {moment}, to {' and '.join(filter(None, places))}, which keeps {s.number('mlflow_backup_keep')}"

    @cached_property
    def timers_due(self) -> list[str]:
        """Timers to turn on or off."""
        on = ("active", "enabled")
        is_on = {
            timer: [state["ActiveState"] == on[0], state["UnitFileState"] == on[1]]
            for timer, state in self.state["timers"].items()
        }
        every = {*is_on, *self.timers_wanted}
        return sorted(timer for timer in every if is_on.get(timer, [False, False]) != [timer in self.timers_wanted] * 2)


def renamed(store: str) -> str:
    """A store's name as it would be now: releases from before left a port out of some."""
    try:
        return str(postgres_address.read(store))
    except ValueError:
        return store


def allowed_hosts(names: list[str]) -> list[str]:
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


def follows(
    settings: MlflowSettings, state: Mapping, told: Mapping, names: Iterable[str] = OF_THE_SETTINGS
) -> dict[str, object]:
    """What the role's tasks and templates go by, without what needs the machine's state where there is none yet.

    Args:
        settings: those of the role that it follows from.
        state: see `Installation`.
        told: see `Installation`.
        names: of what is wanted that follows from the settings alone; all without.
    """
    found = {name: getattr(settings, name) for name in names}
    if state:
        here = Installation(settings, state, told)
        found |= {name: getattr(here, name) for name in OF_THE_MACHINE}
    return found
