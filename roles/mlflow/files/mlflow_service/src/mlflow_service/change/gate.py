"""What a start of the server looks at before it goes on, and what ends a change that nobody is at work on any more."""

import fcntl
import time

from mlflow_service.change.back import go_back, put_back
from mlflow_service.change.machine import Machine, brings_first_server, locked
from mlflow_service.change.model import TRIAL, Journal, Request, log
from mlflow_service.system import runtime
from mlflow_service.system.systemd import SOCKET

POLL_SECONDS = 0.1


def unfinished(machine: Machine) -> Journal | None:
    """A change that nobody is at work on any more, or files that nobody has taken up; None where all is settled."""
    journal = machine.journal()
    if journal:
        return journal if journal.before else None
    replaced = machine.replaced()
    if not replaced or not machine.current or brings_first_server(replaced):
        return None
    nothing = Request(machine.current, "", "", "", "", "", socket_unit=f"/etc/systemd/system/{SOCKET}")
    return Journal(nothing, machine.current)


def gate(machine: Machine) -> int:
    """Let a start of the server pass, now or later; returns the exit status."""
    while True:
        with open(machine.rollback.lock, "a", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                journal = machine.journal()
                if journal is None or journal.phase == TRIAL:
                    runtime.hold(journal is not None)
                    return 0
            else:
                journal = unfinished(machine)
                if journal is None:
                    runtime.hold(False)
                    return 0
                log.warning("a change was not finished (%s): going back to %s", journal.phase, journal.before)
                with runtime.systemd_waits("going back to what ran before"):
                    put_back(machine, journal, starting=True)
                return 1  # systemd starts it again, with the unit as it was before
        time.sleep(POLL_SECONDS)


def recover(machine: Machine) -> None:
    """Go back if a change was killed; otherwise make sure that clients are let in."""
    with locked(machine):
        journal = machine.journal()
        if journal:
            log.warning("the change was killed (%s)", journal.phase)
            go_back(machine, journal)
        else:
            runtime.hold(False)
