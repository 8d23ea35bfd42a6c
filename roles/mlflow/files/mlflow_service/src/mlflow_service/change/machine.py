"""The machine that is changed: its folders, its releases, and what is under way there."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mlflow_service.accounts import login
from mlflow_service.change.model import ChangeError, Journal, Request, log
from mlflow_service.change.words import Steps
from mlflow_service.stores import pooler
from mlflow_service.system import durable, locks, rollback, settings, systemd

LOCK_TIMEOUT_SECONDS = 1800.0


class Machine:
    """The folders of an installation, and what is under way there.

    Args:
        config: such as ``/etc/mlflow``.
        install: such as ``/opt/mlflow``; this program runs from a release below it.
    """

    def __init__(self, config: Path, install: Path) -> None:
        self.env = config / "mlflow.env"
        self.previous = config / "previous.env"  # of a store whose rows the server has taken over; see copy_at_start.py
        self.rollback = rollback.Folder(config / "rollback")
        self.install = install
        self.steps = Steps(Path("/run/mlflow-change"))

    @property
    def current(self) -> str:
        """Name of the release that the link ``current`` names, or the empty string."""
        link = self.install / "current"
        return os.path.basename(os.readlink(link)) if link.is_symlink() else ""

    def point(self, link: str, release: str) -> None:
        """Let a link name a release, by one rename."""
        temporary = self.install / f".{link}.new"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(self.install / "releases" / release)
        durable.rename(temporary, self.install / link)

    def replaced(self) -> dict[str, dict[str, Any]]:
        """Files that were written and not taken up, and the copies of what they replaced."""
        return self.rollback.replaced()

    def journal(self) -> Journal | None:
        found = self.rollback.noted()
        return Journal(**{**found, "request": Request(**found["request"])}) if found else None

    def write(self, journal: Journal, **news: str) -> None:
        """Note what is under way, so that it is there after a loss of power."""
        for name, value in news.items():
            setattr(journal, name, value)
        if "phase" in news:
            log.info("%s", journal.phase)
        self.rollback.note(asdict(journal))


@contextlib.contextmanager
def locked(machine: Machine, timeout: float = LOCK_TIMEOUT_SECONDS) -> Iterator[None]:
    """Nobody else changes anything; waits for who does."""
    with open(machine.rollback.lock, "a", encoding="utf-8") as file:
        if not locks.take(file, timeout):
            raise ChangeError(f"Another run has been changing this machine for {timeout:g} s.")
        yield


def running_release(machine: Machine) -> str:
    """Name of the release that the running server was started from; empty where none runs."""
    try:
        command = (
            Path(f"/proc/{systemd.shown(systemd.SERVICE, 'MainPID').get('MainPID')}/cmdline")
            .read_bytes()
            .split(b"\0")[0]
            .decode()
        )
    except OSError:
        return ""
    releases = f"{machine.install}/releases/"
    return command.removeprefix(releases).split("/")[0] if command.startswith(releases) else ""


def brings(machine: Machine, release: str, *modules: str) -> bool:
    """Whether the release has one of these modules of this package; those from before it was written have none."""
    root = machine.install / "releases" / release
    places = [place for module in modules for place in (f"{module}.py", f"{module}/__init__.py")]
    return any(any(root.glob(f"lib/python*/site-packages/mlflow_service/{place}")) for place in places)


def refuse_unfit_release(machine: Machine, release: str) -> None:
    """Raise ChangeError where the settings mean something that the release knows nothing of, and that would do harm."""
    environment = settings.read(machine.env)
    if environment.get(login.CONFIG) and not brings(machine, release, "accounts"):
        raise ChangeError(
            f"The release {release} was built before this role knew accounts and would let everybody in; "
            "go back to a newer one, or to no accounts at all with mlflow_auth_enabled: false first."
        )
    if pooler.is_set(environment) and not brings(machine, release, "stores/pooler", "direct"):
        raise ChangeError(
            f"The release {release} was built before this role knew poolers, and its backups through one would break "
            "the connections of clients; go back to a newer one, or past the pooler with mlflow_postgres_host first."
        )


def brings_first_server(replaced: Mapping[str, dict[str, Any]]) -> bool:
    """Whether the files that nobody has taken up yet are those of a first installation: no server ran before."""
    return not replaced.get(f"/etc/systemd/system/{systemd.SERVICE}", {"exists": True})["exists"]
