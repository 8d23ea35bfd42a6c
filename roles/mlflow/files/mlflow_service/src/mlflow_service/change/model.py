"""What a change is: its request, its journal, its report, and the plan of one."""

import logging
from dataclasses import dataclass, field
from typing import Any

TRIAL, GOING_BACK = "starting the server", "going back"
UNTOUCHED = BEGINNING, BACKUPS = ("beginning", "keeping backups out")  # phases in which the server before still serves

log = logging.getLogger("mlflow_service.change")


class ChangeError(Exception):
    """Why a change can't be; the text is one sentence for a person, without secrets."""


class GivenUpError(ChangeError):
    """Another server's change failed; ``word`` is what was said of it."""

    def __init__(self, why: str, word: str) -> None:
        super().__init__(why)
        self.word = word


@dataclass
class Request:
    """What is to be taken up.

    Attributes:
        release: name of the release's folder.
        version: MLflow's version in it.
        url: where the machine itself reaches the server.
        user, group, home: of the service's account.
        read_at_start: files that the server or systemd reads when the server starts.
        socket_unit: path of the socket's unit file.
        migrates: whether the schema may have to be migrated.
        restore: folder of a backup to restore, or empty; for ``plan`` also a name, ``latest`` or gs://.
        discard: whether what is there may be given up where it can't be backed up.
        backup_dir: where the backup goes that is taken before the data change.
        skip: steps of the check to leave out; see check.py.
        place: among servers that share a store and change their data together: ``first``, who changes them,
            or ``other``; empty for a server that changes alone.
    """

    release: str
    version: str
    url: str
    user: str
    group: str
    home: str
    read_at_start: list[str] = field(default_factory=list)
    socket_unit: str = ""
    migrates: bool = False
    restore: str = ""
    discard: bool = False
    backup_dir: str = "/var/backups/mlflow"
    skip: list[str] = field(default_factory=list)
    place: str = ""


@dataclass
class Journal:
    """A change under way.

    Attributes:
        request: what is being taken up.
        before: name of the release that ran before; empty where none did.
        phase: what is being done.
        backup: folder with the data as it was; empty while nothing has touched it.
    """

    request: Request
    before: str
    phase: str = BEGINNING
    backup: str = ""


@dataclass
class Report:
    """What became of it.

    Attributes:
        release: the one that runs now.
        restarted: whether the server was started anew.
        migrated: schema revision before and after; empty where it stayed.
        backup: folder of the backup that was taken.
        failed: why it was given up, one sentence; empty where it was taken up.
        stuck: why going back failed, too; the server's next start tries it again. Empty where it did not.
        said: the server's last log lines, where it was given up.
        waits: what has been done where it waits for a word: ``stopped``, ``checked`` or, with `failed`,
            ``given up``; empty where it does not wait.
        ended: whether there is nothing more to come.
    """

    release: str
    restarted: bool = False
    migrated: list[str] = field(default_factory=list)
    backup: str = ""
    failed: str = ""
    stuck: str = ""
    said: str = ""
    waits: str = ""
    ended: bool = False


@dataclass
class Plan:
    """What a change would mean for the data.

    Attributes:
        schema: of the database, as the wanted release sees it; empty where it can't be read. See schema.py.
        unreadable: why it can't be read.
        wrong: why there is no plan, one sentence; empty where there is one.
        backup: manifest of the backup to restore, and its ``path``; empty without one.
        accounts: what that does to the accounts, where only one of the backup and the server has any.
        revisions: schema revisions that the wanted release can start from.
        lost: what the store has been given since the backup, by kind.
        backups: names of the backups here that the wanted release can start from, newest first.
    """

    schema: dict[str, Any] = field(default_factory=dict)
    unreadable: str = ""
    wrong: str = ""
    backup: dict[str, Any] = field(default_factory=dict)
    accounts: str = ""
    revisions: list[str] = field(default_factory=list)
    lost: dict[str, int] = field(default_factory=dict)
    backups: list[str] = field(default_factory=list)
