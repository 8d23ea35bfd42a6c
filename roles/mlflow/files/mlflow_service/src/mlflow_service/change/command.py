"""The commands, all for root; see `mlflow_service.change`."""

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mlflow_service.change.gate import gate, recover
from mlflow_service.change.machine import Machine
from mlflow_service.change.model import ChangeError, Plan, Report, Request
from mlflow_service.change.words import POLL_SECONDS, UNIT
from mlflow_service.system import acting, files, logs, systemd


def begin(machine: Machine, request: Request) -> Report:
    """Start a change of several servers; see `Report.waits`."""
    while (state := systemd.shown(UNIT, "ActiveState").get("ActiveState")) == "deactivating":
        time.sleep(POLL_SECONDS)
    if state == "active":
        raise ChangeError(
            "Another run is changing the servers together; end what is left of a dead one with "
            f"`systemctl stop {UNIT}` on each of them, which goes back"
        )
    machine.steps.begin(request)
    program = acting.python("-m", "mlflow_service.change")
    properties = {
        "StandardInput": f"file:{machine.steps.request}",
        "ExecStopPost": " ".join([*program, "recover", str(machine.env.parent)]),
        "TimeoutStopSec": "4h",  # going back may restore much data
    }
    command = ["systemd-run", "--quiet", "--collect", f"--unit={UNIT}"]
    command += [f"--description=Change over to MLflow release {request.release}, together with other servers"]
    command += [f"--property={name}={value}" for name, value in properties.items()]
    done = subprocess.run([*command, *program, "take-up", str(machine.env.parent)], capture_output=True, text=True)
    if done.returncode != 0:
        raise ChangeError(f"systemd-run: {done.stderr.strip()}")
    return settled(machine)


def say(machine: Machine, word: str) -> Report:
    """Tell a change how to go on; one that has ended is told nothing."""
    report = settled(machine)
    if report.ended:
        return report
    files.write(machine.steps.word, word.encode())
    return settled(machine)


def settled(machine: Machine) -> Report:
    """What a change says as soon as it waits for a word or has ended, by whatever."""
    killed = "The change was killed, or never began"
    return machine.steps.settled() or Report(machine.current, failed=killed, ended=True)


def log_to_journal() -> None:
    """Send standard error to systemd's journal, whoever has started this; see sd_journal_stream_fd(3)."""
    with socket.socket(socket.AF_UNIX) as journal:
        journal.connect("/run/systemd/journal/stdout")
        journal.sendall(b"mlflow-change\n\n6\n1\n0\n0\n0\n")
        os.dup2(journal.fileno(), 2)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="mlflow_service.change", description="Take up a change of this machine.")
    parser.add_argument("command", choices=("take-up", "plan", "gate", "recover", "begin", "say"))
    parser.add_argument("config", type=Path, help="folder of the settings, such as /etc/mlflow")
    return parser.parse_args()


def main() -> int:
    """Do as the command says; returns the exit status."""
    given = read_arguments()
    os.chdir("/")  # systemd runs the gate in the service's home
    machine = Machine(given.config, Path(sys.prefix).resolve().parent.parent)
    if given.command != "gate":
        log_to_journal()
    logs.configure()
    if given.command == "gate":
        return gate(machine)
    if given.command == "recover":
        recover(machine)
        return 0
    try:
        result = answer(machine, given.command, json.load(sys.stdin))
    except ChangeError as error:  # before anything was touched
        result = Report(machine.current, failed=str(error), ended=True)
    with contextlib.suppress(BrokenPipeError):  # who asked may be gone
        print(json.dumps(asdict(result)), file=sys.__stdout__, flush=True)
    return 0


def answer(machine: Machine, command: str, given: Any) -> Plan | Report:
    """What a command that reads standard input prints."""
    from mlflow_service.change.planning import plan  # the gate, for which clients wait, needs neither
    from mlflow_service.change.taking import Change

    if command == "say":
        return say(machine, given)
    request = Request(**given)
    if command == "plan":
        return plan(machine, request)
    if command == "begin":
        return begin(machine, request)
    report = Change(machine, request).take_up()
    report.ended = True
    if request.place:
        machine.steps.tell(report)
    return report
