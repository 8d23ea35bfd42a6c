"""Take over the rows of the store that was in use before, once, before the server starts.

Ansible leaves the settings of that store in the file that ``MLFLOW_SERVICE_PREVIOUS_SETTINGS`` names.
Here and not in Ansible: whatever is killed or rebooted on the way, the server does not start on the
new store before the rows are there, and clients wait at the socket.
"""

import logging
import os
import sys
from pathlib import Path

from mlflow_service.system import runtime, settings

DONE = Path(".taken-over")  # in the service's home: which file of previous settings is done with
SAID_EVERY_ROWS = 100_000

log = logging.getLogger("mlflow_service")


def take_over() -> None:
    """Copy the previous store's rows, unless there is none or that was done before; ends the process on failure.

    The accounts are part of it, where the service had them and has them.
    """
    previous = Path(os.environ["MLFLOW_SERVICE_PREVIOUS_SETTINGS"])
    if not previous.exists():
        return
    stamp = str(previous.stat().st_mtime_ns)
    if DONE.exists() and DONE.read_text() == stamp:
        return
    from mlflow_service.stores import copying, pooler, schema

    before = settings.read(previous)
    log.info("taking over the rows of %s", before["MLFLOW_SERVICE_STORE"])
    # The tracking database last: its transaction ends first, and is the one that a full disk would hit.
    copies = [
        copying.Copy(store, pooler.uri(before[store.variable], before), store.uri)
        for store in (schema.AUTH, schema.TRACKING)
        if before.get(store.variable) and store.uri
    ]
    try:
        with runtime.systemd_waits("taking over a store's rows"):
            copied = copying.transfer(copies, progress=say, source_environment=before)
    except copying.TransferError as error:
        log.error("%s", error)
        sys.exit(1)
    DONE.write_text(stamp)
    log.info("took over %d rows in %d tables", sum(copied.values()), len(copied))


def say(table: str, rows: int) -> None:
    """Progress for who reads the log of a large store."""
    if rows and rows % SAID_EVERY_ROWS == 0:
        log.info("taking over %s: %d rows", table, rows)
