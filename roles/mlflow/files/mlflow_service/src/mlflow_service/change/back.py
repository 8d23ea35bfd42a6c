"""The way back: data, files and release as they were before a change."""

import signal
from pathlib import Path

from mlflow_service.change.machine import Machine
from mlflow_service.change.model import GOING_BACK, UNTOUCHED, Journal, log
from mlflow_service.system import runtime, settings, systemd
from mlflow_service.system.systemd import SERVICE, SOCKET


def put_data_back(machine: Machine, journal: Journal) -> None:
    """Restore the data as it was before the change, if anything has touched it. No server runs."""
    if journal.backup:
        from mlflow_service import backup

        log.warning("putting the data back as it was, from %s", journal.backup)
        backup.restore_database(Path(journal.backup), settings.read(machine.env))
        backup.restore_artifacts(Path(journal.backup), settings.read(machine.env))
        machine.write(journal, backup="")  # once is enough; the settings, which name the store, go back after it


def put_back(machine: Machine, journal: Journal, starting: bool = False) -> None:
    """Data, files and release as before the change. No server runs; can be done again when killed on the way.

    Args:
        machine, journal: where, and what is undone.
        starting: whether this is part of a start of the server, which a restart of its socket ends.
    """
    replaced = machine.replaced()
    put_data_back(machine, journal)
    machine.rollback.put_back(replaced)
    machine.point("current", journal.before)
    systemd.systemctl("daemon-reload")
    if journal.request.socket_unit in replaced:
        if starting:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # until all is settled
        systemd.systemctl("restart", *["--no-block"] * starting, SOCKET)
    machine.rollback.settle()


def go_back(machine: Machine, journal: Journal) -> None:
    """What ran before runs again. Where nothing ran before, everything but the data stays for a person to look at."""
    if journal.before and journal.phase in UNTOUCHED:
        # It was not even stopped: only what the next start would read goes back.
        machine.rollback.put_back(machine.replaced())
        systemd.systemctl("daemon-reload")
        machine.rollback.settle()
        runtime.hold(False)
        systemd.systemctl("start", SERVICE)
    elif journal.before:
        machine.write(journal, phase=GOING_BACK)
        systemd.systemctl("stop", SERVICE)
        put_back(machine, journal)
        runtime.hold(False)
        systemd.systemctl("start", SERVICE)
    else:
        if journal.backup:
            systemd.systemctl("stop", SERVICE)
            put_data_back(machine, journal)
        machine.rollback.forget()
        runtime.hold(False)
