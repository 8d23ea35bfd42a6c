"""The way forward: a change from its request to its report, taken up wholly or not at all."""

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow_service import backup, check
from mlflow_service.accounts import client, passphrases
from mlflow_service.change import asking
from mlflow_service.change.back import go_back, put_data_back
from mlflow_service.change.machine import (
    Machine,
    brings,
    brings_first_server,
    locked,
    refuse_unfit_release,
    running_release,
)
from mlflow_service.change.model import BACKUPS, TRIAL, ChangeError, GivenUpError, Journal, Report, Request, log
from mlflow_service.change.words import BACK, GO_ON
from mlflow_service.system import acting, runtime, settings, systemd
from mlflow_service.system.systemd import SERVICE, SOCKET

# How long a change waits for the next word from the Ansible run: the first server as long as others take to stop or
# start, the others as long as a backup and a migration of much data may take.
PATIENCE_SECONDS = {"first": 900.0, "other": 4 * 3600.0}
POLL_SECONDS = 0.1
HELD_TIMEOUT_SECONDS = 30.0
JOURNAL_LINES = 25
AUTH = "MLFLOW_SERVICE_AUTH_STORE_URI"


class Change:
    """One change, from its request to its report."""

    def __init__(self, machine: Machine, request: Request) -> None:
        self.machine = machine
        self.request = request
        self.journal = Journal(request, machine.current)
        self.report = Report(machine.current)
        self.held = contextlib.ExitStack()  # what is kept until the change has ended

    def take_up(self) -> Report:
        """Take it up or go back."""
        with locked(self.machine), self.held:
            left, replaced = self.machine.journal(), self.machine.replaced()
            if left and (left.before or left.backup):  # killed on the way; the files in place now are newer than that
                systemd.systemctl("stop", SERVICE)
                put_data_back(self.machine, left)
            if left and left.before:
                self.machine.point("current", left.before)
                self.journal.before = left.before
            if brings_first_server(replaced):
                self.journal.before = ""  # whatever a run has linked that did not pass
            try:
                refuse_unfit_release(self.machine, self.request.release)
                self.machine.write(self.journal)
                if any(path.startswith("/etc/systemd/") for path in replaced):
                    systemd.systemctl("daemon-reload")
                self.change_data()
                self.switch(replaced)
                self.wait("checked")
                self.keep_secrets_readable()
            except Exception as error:  # whatever it is, the machine must not stay half-way
                self.report.failed = str(error)
                self.report.said = systemd.last_words(SERVICE, JOURNAL_LINES)
                log.error("gave the change up: %s", error)
                try:
                    self.let_the_first_go_back(error)
                    go_back(self.machine, self.journal)
                except Exception as again:
                    self.report.stuck = str(again)
                    log.error("could not go back: %s", again)
                self.report.release = self.machine.current
            else:
                if self.journal.before not in ("", self.request.release):
                    self.machine.point("previous", self.journal.before)
                self.machine.previous.unlink(missing_ok=True)
                self.machine.rollback.settle()
                runtime.hold(False)
                log.info("done: release %s", self.request.release)
        return self.report

    def change_data(self) -> None:
        """Restore a backup, migrate the schema, or both, while no server runs, with a backup of what was."""
        request, environment = self.request, settings.read(self.machine.env)
        touches = request.place != "other" and bool(
            request.migrates or request.restore or self.has_new_accounts(environment)
        )
        if touches:
            self.keep_backups_out(environment)
        if request.place:
            self.machine.write(self.journal, phase="stopping the server")
            systemd.systemctl("stop", SERVICE)
            self.wait("stopped")
        if not touches:
            return
        if request.restore:
            restored = Path(request.restore)
        else:
            found = asking.schema(request, environment)
            if not found["known"]:
                revision = found["revision"]
                raise ChangeError(f"MLflow {request.version} does not know the database's schema revision {revision}")
            if found["revision"] in ("", found["head"]):
                return  # there is nothing to migrate, or another run has done it meanwhile
        self.machine.write(self.journal, phase="stopping the server")
        systemd.systemctl("stop", SERVICE)
        self.back_up(environment)
        if request.restore:
            self.machine.write(self.journal, phase="restoring the backup")
            backup.restore_database(restored, environment)
            backup.restore_artifacts(restored, environment)
        self.machine.write(self.journal, phase="migrating the schema")
        found = asking.schema(request, environment, "migrate")
        before, after = found.get("before", ""), found["revision"]  # an older release does not say what was before
        self.report.migrated = [before, after] if before not in ("", after) else []

    def keep_backups_out(self, environment: Mapping[str, str]) -> None:
        """Let no backup begin until the change has ended, and wait for one under way while the server still serves."""
        self.machine.write(self.journal, phase=BACKUPS)
        folder = Path(self.request.backup_dir)
        with backup.sentences():
            backup.open_folder(folder, backup.Service(environment))
            self.held.enter_context(backup.locked(folder))

    def wait(self, done: str) -> None:
        """Among servers that change together: say what has been done, and go on only when told so.

        Of the words ``stop`` ends a server that is on trial, ``back`` puts back what was before. Without a word for
        long, the first server goes back. The others then look whether it did: whose schema is in the database?
        """
        place = self.request.place
        if not place:
            return
        word = self.pause(done)
        if not word and place == "other":
            found = asking.schema(self.request, settings.read(self.machine.env))
            word = GO_ON if found["revision"] == found["head"] else ""
        if word != GO_ON:
            silence = f"nobody said how to go on for {PATIENCE_SECONDS[place]:g} s"
            raise GivenUpError("the servers go back together" if word else silence, word)

    def pause(self, done: str) -> str:
        """Wait for the next word; empty where none came."""
        log.info("%s; waiting for the other servers", done)
        steps, self.report.waits = self.machine.steps, done
        steps.tell(self.report)
        word = steps.listen(PATIENCE_SECONDS[self.request.place])
        self.report.waits = ""
        steps.tell(self.report)
        steps.word.unlink(missing_ok=True)
        return word

    def let_the_first_go_back(self, error: Exception) -> None:
        """Wait, with no server running, until the data are again what the server before knows."""
        if self.request.place == "other" and getattr(error, "word", "") != BACK:
            systemd.systemctl("stop", SERVICE)
            self.pause("given up")

    def has_new_accounts(self, environment: Mapping[str, str]) -> bool:
        """Whether the server gets an auth database that it had not before; an older release may have left it."""
        kept = self.machine.replaced().get(str(self.machine.env), {"exists": False})
        before = settings.read(kept["copy"]) if kept["exists"] else environment
        return environment.get(AUTH, "") not in ("", before.get(AUTH, ""))

    def back_up(self, environment: Mapping[str, str]) -> None:
        """Keep the data as it is now. The way back leads there."""
        request = self.request
        self.machine.write(self.journal, phase="backing up the database")
        label = "before-restore" if request.restore else f"before-{request.version}"
        artifacts = bool(request.restore) and backup.brings_artifacts(Path(request.restore), environment)
        try:
            made = backup.create(environment, Path(request.backup_dir), label=label, artifacts=artifacts, alone=True)
            self.report.backup = str(made)
        except backup.BackupError as error:
            if not request.restore:
                raise
            if not request.discard:
                raise ChangeError(
                    f"what the store holds can't be backed up: {error} Mend that, or, to give it up, "
                    "set mlflow_restore_discards to true"
                ) from error
            log.warning("what is there is given up without a backup: %s", error)
        self.machine.write(self.journal, backup=self.report.backup)

    def switch(self, replaced: Mapping[str, Any]) -> None:
        """Start the new server without clients, and check it."""
        request, machine = self.request, self.machine
        machine.write(self.journal, phase="switching the release")
        if machine.current != request.release:
            machine.point("current", request.release)
        self.report.release = request.release
        new_socket = request.socket_unit in replaced
        systemd.systemctl("enable", "--quiet", SOCKET, SERVICE)
        if self.starts(replaced) or new_socket:
            machine.write(self.journal, phase=TRIAL)
            if new_socket:
                systemd.systemctl("stop", SERVICE)
                systemd.systemctl("restart", SOCKET)
            systemd.systemctl("restart", SERVICE)
            self.report.restarted = True
            machine.write(self.journal, phase="checking the server")
            check_held_server(request)
        else:
            systemd.systemctl("start", SOCKET, SERVICE)

    def keep_secrets_readable(self) -> None:
        """Encrypt the gateway's secrets under the passphrase that the server has been given; see passphrases.py."""
        if not self.report.restarted or self.request.place == "other":
            return
        if brings(self.machine, self.request.release, "keys"):
            kept = self.machine.replaced().get(str(self.machine.env), {}).get("copy")
            before = settings.read(kept).get(passphrases.PASSPHRASE, "") if kept else ""
            environment = {**settings.read(self.machine.env), passphrases.PREVIOUS: before}
            asking.as_service(self.request, environment, "mlflow_service.keys", seconds=acting.DATA_SECONDS)

    def starts(self, replaced: Mapping[str, Any]) -> bool:
        """Whether the running server is another than the one wanted, or has read other files."""
        return running_release(self.machine) != self.request.release or bool(
            set(replaced) & set(self.request.read_at_start)
        )


def check_held_server(request: Request) -> None:
    """Ask a server that lets no clients in yet, through a worker's private socket; raises ChangeError."""
    deadline = time.monotonic() + HELD_TIMEOUT_SECONDS
    while not (sockets := runtime.trial_sockets()):
        if time.monotonic() > deadline:
            raise ChangeError("The server started, but opened no socket to check it by.")
        time.sleep(POLL_SECONDS)
    server = client.Server(request.url, socket=str(sockets[0]), local_key=True)
    found = check.check(server, request.version, request.skip)
    if wrong := [step["error"] for step in found["steps"].values() if step["error"]]:
        raise ChangeError("; ".join(wrong))
