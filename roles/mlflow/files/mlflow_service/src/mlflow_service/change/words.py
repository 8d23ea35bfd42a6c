"""A change that goes on when it is told so: what it tells of itself, and what it is told, by files."""

import json
import time
from dataclasses import asdict
from pathlib import Path

from mlflow_service.change.model import Report, Request
from mlflow_service.system import files, systemd

UNIT = "mlflow-change.service"
GO_ON, STOP, BACK = ("go on", "stop", "back")  # see taking.Change.wait
POLL_SECONDS = 0.1


class Steps:
    """What a change that waits for words tells, and is told: files in a folder that a boot empties."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.request = folder / "request.json"
        self.report = folder / "report.json"
        self.word = folder / "word"

    def begin(self, request: Request) -> None:
        """Forget the change before, and keep the request of this one."""
        files.remove(self.folder)
        self.folder.mkdir(mode=0o700)
        files.write(self.request, json.dumps(asdict(request)).encode())

    def tell(self, report: Report) -> None:
        files.write(self.report, json.dumps(asdict(report)).encode())

    def told(self) -> Report | None:
        return Report(**json.loads(self.report.read_text())) if self.report.exists() else None

    def listen(self, seconds: float) -> str:
        """The next word; empty where none came in time."""
        deadline = time.monotonic() + seconds
        while not self.word.exists():
            if time.monotonic() > deadline:
                return ""
            time.sleep(POLL_SECONDS)
        return self.word.read_text()

    def settled(self) -> Report | None:
        """The report as soon as the change waits for a word or has ended; None where it was killed, or never began."""
        while True:
            alive = systemd.shown(UNIT, "ActiveState").get("ActiveState") in {"activating", "active", "deactivating"}
            report = self.told()
            if report and not self.word.exists() and (report.waits or report.ended):
                return report
            if not alive:
                return None
            time.sleep(POLL_SECONDS)
