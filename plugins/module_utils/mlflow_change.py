# Copyright the authors of this repository
# SPDX-License-Identifier: Apache-2.0
"""What a change of an MLflow server means, in words; and what the program on the machine is asked to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

MOST_SECONDS = "4h"  # that going back may take: a large database is restored


def counted(held: Mapping[str, int]) -> str:
    """What a store holds, in words, such as ``3 runs, 1 registered models``."""
    return ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in held.items())


def waits(result: Mapping) -> str:
    """What a change that is told step by step waits for, of the program's registered result.

    Returns:
        See ``Report.waits`` in mlflow_service/change; ``ended`` where it has been taken up, ``failed`` where it was
        given up, and the empty string where nothing is known, such as of a task that was skipped.
    """
    report = result.get("report") or {}
    if report.get("failed"):
        return "failed"
    return "ended" if report.get("ended") else report.get("waits", "")


def in_a_unit(command: list[str], config_dir: str, release: str) -> list[str]:
    """The command that takes a change up in a unit of its own, so that it ends whatever becomes of who asked for it.

    Args:
        command: the program for changes and its options.
        config_dir: the folder with the server's settings.
        release: the one that is changed to.
    """
    recover = " ".join([*command, "recover", config_dir])
    return [
        *("systemd-run", "--quiet", "--collect", "--wait", "--pipe"),
        f"--description=Change over to MLflow release {release}",
        f"--property=TimeoutStopSec={MOST_SECONDS}",
        f"--property=ExecStopPost={recover}",
        *command,
        *("take-up", config_dir),
    ]


def would(current: str, release: str, pending: Iterable[str], revision: str, head: str) -> str:
    """What a change would do, for check mode.

    Args:
        current: the release that is in use, or the empty string.
        release: the one that is wanted.
        pending: paths of files that wait to be taken up.
        revision: the schema of the database; empty where there is none.
        head: the schema that the release wants; empty where that is not known yet.
    """
    if not current:
        return f"MLflow {release.rpartition('-')[0]} would be started."
    if current == release:
        news = ", ".join(PurePosixPath(path).name for path in pending)
        return f"MLflow would be started anew with {news or 'its units on'}."
    if revision and head and revision != head:
        schema = f"its schema would be migrated from {revision} to {head}, after a backup"
    elif head:
        schema = "its schema would stay as it is"
    else:
        schema = "whether its schema would be migrated shows once the release is built"
    return f"MLflow would change from release {current} to {release}, and {schema}."


def given_up(plan: Mapping) -> str:
    """What a restore gives up, of the program's plan."""
    backup = plan["backup"]
    if plan["unreadable"]:
        lost = f"The store can not be read ({plan['unreadable']}) and"
    else:
        lost = (
            f"Since the backup {backup['name']} the store was given {counted(plan['lost']) or 'nothing'}, "
            "which stays in the backup that is taken first; it"
        )
    return f"{lost} becomes what it was at {backup['created']}. {plan.get('accounts', '')}".rstrip()


def went_back(report: Mapping, release: str, current: str) -> str:
    """Why a change was given up, and what runs now.

    Args:
        report: of the program.
        release: the one that was wanted.
        current: the one that ran before, or the empty string.
    """
    if report["stuck"]:
        stuck = f"Going back failed, too ({report['stuck']}), so clients wait"
        now = f"{stuck}; mend that, then `systemctl restart mlflow` goes back."
    elif not current:
        now = "No server ran before. Correct the settings and run the playbook again."
    else:
        data = ", with the data as it was." if report["backup"] else "."
        now = f"The release and the settings that ran before run again{data}"
    why = f"MLflow {release.rpartition('-')[0]} did not pass ({report['failed']})."
    return f"{why}\n{now}\nWhat the server said last:\n{report['said']}"
