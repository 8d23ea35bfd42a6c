"""The deep check, each minute: ``python -m mlflow_service.watch``, started by ``mlflow-check.timer`` as root.

It asks each worker (worker_health.py), runs the steps of check.py, writes one line to the journal when the
result has changed or is bad, and leaves all of it for Prometheus' node exporter. What the service says
decides only about the service: a process that is none of its control group is neither asked nor killed.

A server that hangs is healed: after `restart_after` checks in a row a worker that answers nothing is
killed, which uvicorn replaces; where all do, the whole service is, which systemd starts again. Killing
starts nothing that was stopped. What hangs because its database does is left alone, since a new server
could do no more, and so is a server that a change is being made to.
"""

import contextlib
import datetime
import fcntl
import glob
import json
import logging
import os
import signal
import stat
import subprocess
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from mlflow_service import backup, check
from mlflow_service.accounts import client
from mlflow_service.serving import worker_health
from mlflow_service.system import acting, files, logs, rollback, runtime
from mlflow_service.system.systemd import SERVICE, shown

STATE_FOLDER = Path("/run/mlflow-check")
SERVICE_FOLDER = Path("/run/mlflow")  # the service's runtime folder; RUNTIME_DIRECTORY is the check's own
STEP_TIMEOUT_SECONDS = 10.0
DATABASE_TIMEOUT_SECONDS = 20.0
NOTICE = 5  # syslog's number; below it are systemd's own lines about each start of this (LogLevelMax=)
TEXTFILE = "mlflow.prom"
CONTROL_GROUPS = [Path(path) for path in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd")]
CERTIFICATES_LIMIT = 1024 * 1024  # bytes of a file of certificates

log = logging.getLogger("mlflow_service.watch")


@dataclass
class Settings:
    """What the check is told.

    Attributes:
        config: such as ``/etc/mlflow``.
        restart_after: checks in a row after which a worker that hangs is killed; 0 never does.
        metrics_dir: where the node exporter looks for text files; empty for none.
        backup_dir: where backups are; empty where none are made here.
        certificates: paths of PEM files whose expiry is exported.
        skip: steps of check.py to leave out.
    """

    config: Path
    restart_after: int = 3
    metrics_dir: str = ""
    backup_dir: str = ""
    certificates: list[str] = field(default_factory=list)
    skip: list[str] = field(default_factory=list)


@dataclass
class State:
    """What one check leaves for the next.

    Attributes:
        invocation: systemd's id of the service's run that this is about.
        hung: by pid, how many checks in a row have found the worker hung.
        silent: how many checks in a row have found no worker at all.
        answered: by pid, what each worker had answered.
        said: the last line in the journal.
        odd: what was found last in the service's runtime folder that is no worker's.
        healed: how often a worker or the service was killed since the machine has started.
        last_success: when a check passed, in seconds since 1970; 0 for never.
    """

    invocation: str = ""
    hung: dict[str, int] = field(default_factory=dict)
    silent: int = 0
    answered: dict[str, int] = field(default_factory=dict)
    said: str = ""
    odd: list[str] = field(default_factory=list)
    healed: int = 0
    last_success: float = 0.0


def settings_from(environment: Mapping[str, str]) -> Settings:
    """The settings that the unit gives; see templates/check.env.j2."""
    return Settings(
        config=Path(environment["MLFLOW_SERVICE_PREVIOUS_SETTINGS"]).parent,
        restart_after=int(environment["MLFLOW_CHECK_RESTART_AFTER"]),
        metrics_dir=environment.get("MLFLOW_CHECK_METRICS_DIR", ""),
        backup_dir=environment.get("MLFLOW_CHECK_BACKUP_DIR", ""),
        certificates=certificates(environment.get("MLFLOW_CHECK_CERTIFICATES", "").split()),
        skip=environment.get("MLFLOW_CHECK_SKIP", "").split(),
    )


def certificates(patterns: Iterable[str]) -> list[str]:
    """The files that the patterns match, and every plain path, which should be there."""
    return [
        path for pattern in patterns for path in (sorted(glob.glob(pattern)) if glob.has_magic(pattern) else [pattern])
    ]


# What is found


@contextlib.contextmanager
def no_change(config: Path) -> Iterator[bool]:
    """Whether nobody changes the server, and nobody has left a change unfinished; keeps others from it meanwhile."""
    with contextlib.ExitStack() as stack:
        folder = rollback.Folder(config / "rollback")
        free = not os.path.exists(folder.journal)
        with contextlib.suppress(FileNotFoundError):
            lock = stack.enter_context(open(folder.lock, "rb"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                free = False
        yield free


def members() -> set[int]:
    """The processes of the service, by its control group; none where it can't be read."""
    group = shown(SERVICE, "ControlGroup").get("ControlGroup", "").lstrip("/")
    found = [path for root in CONTROL_GROUPS if group for path in (root / group).rglob("cgroup.procs")]
    with contextlib.suppress(OSError):
        return {int(line) for path in found for line in path.read_text().split()}
    return set()


def ask_workers() -> tuple[list[worker_health.Worker], list[str]]:
    """Every worker that runs, and what it told; and what is there besides, in words."""
    paths, own, odd = worker_health.sockets(runtime.folder()), members(), worker_health.odd_names(runtime.folder())

    def ask(path: Path) -> worker_health.Worker | None:
        try:
            return worker_health.ask(path, own)
        except worker_health.OddError as error:
            odd.append(str(error))
            return None

    with ThreadPoolExecutor(max(1, len(paths))) as threads:
        workers = [worker for worker in threads.map(ask, paths) if worker is not None]
    return workers, sorted(odd)


def say_odd(odd: list[str], state: State) -> None:
    """One line about what the service's runtime folder has and no worker has made, when that has changed."""
    if odd and odd != state.odd:
        more = f" and {len(odd) - 3} more" if len(odd) > 3 else ""
        log.warning(
            "in %s is what no worker has made: %s%s", runtime.folder(), acting.one_line("; ".join(odd[:3])), more
        )
    state.odd = odd


def hangs(worker: worker_health.Worker, answered_before: int | None) -> bool:
    """Whether clients get nothing from this worker.

    One that is slow has answered something since the last check, and one that is starting answers later.
    """
    if worker.state is None:
        return True
    return worker.state["warm"] and not worker.state["threads"] and worker.state["answered"] == answered_before


def judge(workers: list[worker_health.Worker], state: State) -> list[worker_health.Worker]:
    """The workers that hang, counted in `state`."""
    hung = [worker for worker in workers if hangs(worker, state.answered.get(str(worker.pid)))]
    state.hung = {str(worker.pid): state.hung.get(str(worker.pid), 0) + 1 for worker in hung}
    state.silent = 0 if workers else state.silent + 1
    state.answered = {str(worker.pid): worker.state["answered"] for worker in workers if worker.state}
    return hung


def database_answers(environment: Mapping[str, str]) -> bool:
    """Ask the database without the server, as the service's user."""
    command = acting.python("-m", "mlflow_service.serving.database_health")
    try:
        return backup.Service(environment).run(command, seconds=DATABASE_TIMEOUT_SECONDS).status == 0
    except acting.ActingError:
        return False


def server_of(environment: Mapping[str, str]) -> client.Server:
    """The server as its clients reach it."""
    return client.Server(environment["MLFLOW_SERVICE_URL"], STEP_TIMEOUT_SECONDS, local_key=True)


def answers(server: client.Server) -> bool:
    """Whether anybody answers there, with an error or without."""
    try:
        server.request("GET", "/health")
    except client.ServerError as error:
        return error.status != 0
    return True


# What is done about it


def heal(settings: Settings, environment: Mapping[str, str], workers: list[worker_health.Worker], state: State) -> str:
    """Kill what has hung for long enough; returns what was done, or not done and why, or nothing."""
    after = settings.restart_after
    doomed = [worker for worker in workers if state.hung.get(str(worker.pid), 0) >= after]
    if not after or not (doomed or state.silent >= after):
        return ""
    database = database_answers(environment)
    state.hung, state.silent = {}, 0  # once its database is back, it gets as many checks to come back itself
    if not database:
        return "its database does not answer either, so it is left alone"
    if len(doomed) == len(workers) and answers(server_of(environment)):
        return "but somebody answers clients, so it is left alone"
    with no_change(settings.config) as free:
        now = shown(SERVICE, "ActiveState", "InvocationID")
        if not free or now != {"ActiveState": "active", "InvocationID": state.invocation}:
            return ""  # stopped or started anew meanwhile
        if len(doomed) == len(workers):
            subprocess.run(["systemctl", "kill", "--signal=SIGKILL", SERVICE], check=True)
            done = "killed the service, which systemd starts again"
        else:
            for worker in doomed:
                kill(worker.pid)
            done = f"killed worker {', '.join(str(worker.pid) for worker in doomed)}, which is replaced"
    state.healed += 1
    return done


def kill(pid: int) -> None:
    """Kill a process, if it is the service's at that moment: the descriptor stays its own, whoever gets the number."""
    with contextlib.suppress(OSError):  # it has ended, or is none that can be seen from here
        process = os.pidfd_open(pid)
        try:
            if pid in members():
                signal.pidfd_send_signal(process, signal.SIGKILL)
        finally:
            os.close(process)


# What is said about it


def sentence(result: Mapping[str, Any]) -> str:
    """The result in one line, without what differs from one check to the next."""
    errors = [f"{name}: {step['error']}" for name, step in result["steps"].items() if not step["ok"]]
    return acting.one_line("; ".join(errors)) or f"MLflow {result['version']} works"


def label(value: object) -> str:
    """A label's value as Prometheus' text format has it."""
    return str(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class Text:
    """Metrics in Prometheus' text format."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, name: str, help: str, samples: Mapping[tuple[tuple[str, object], ...], float]) -> None:
        """A gauge with its samples by labels; nothing where it has none."""
        if samples:
            self.lines += [f"# HELP {name} {help}", f"# TYPE {name} gauge"]
        for labels, value in samples.items():
            shown_labels = ",".join(f'{key}="{label(text)}"' for key, text in labels)
            self.lines.append(f"{name}{'{' + shown_labels + '}' if labels else ''} {float(value):.15g}")

    def __str__(self) -> str:
        return "\n".join(self.lines) + "\n"


def newest_backup(folder: str) -> dict[str, Any]:
    """The newest backup here; empty where there is none."""
    try:
        found = backup.names(Path(folder)) if folder else []
        return backup.summary(Path(folder) / max(found)) if found else {}
    except (OSError, backup.BackupError):
        return {}


def read_certificates(path: str) -> bytes:
    """A file's content; links are followed, since no more than a date of it is told. Nobody waits for a FIFO."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError(path)
        return file.read(CERTIFICATES_LIMIT)


def expiry(path: str) -> float:
    """When the first certificate in a PEM file ends, in seconds since 1970; 0 where it can't be read."""
    from cryptography import x509

    try:
        warnings.simplefilter("ignore")  # about odd certificates, which count as they are
        certificates = x509.load_pem_x509_certificates(read_certificates(path))
        return min(one.not_valid_after_utc.timestamp() for one in certificates)
    except (OSError, ValueError):
        return 0.0


def metrics(settings: Settings, state: State, result: Mapping[str, Any]) -> str:
    """What the node exporter shows of the check, the backups and the certificates."""
    text = Text()
    steps = result["steps"]
    text.add("mlflow_check_ok", "Whether every step of the last check passed.", {(): result["ok"]})
    text.add(
        "mlflow_check_step_ok",
        "Whether a step of the last check passed.",
        {(("step", name),): step["ok"] for name, step in steps.items()},
    )
    text.add(
        "mlflow_check_step_seconds",
        "How long a step of the last check took.",
        {(("step", name),): step["milliseconds"] / 1000 for name, step in steps.items()},
    )
    text.add("mlflow_check_timestamp_seconds", "When the last check ended.", {(): time.time()})
    text.add("mlflow_check_success_timestamp_seconds", "When a check passed last.", {(): state.last_success})
    text.add("mlflow_check_workers_hung", "Workers that answered nothing.", {(): result.get("hung", 0)})
    text.add("mlflow_check_healed", "How often the check has killed what hung.", {(): state.healed})
    text.add("mlflow_check_info", "The version that is checked.", {(("version", result["version"]),): 1})
    if settings.backup_dir:
        newest = newest_backup(settings.backup_dir)
        last = shown("mlflow-backup.service", "Result").get("Result")
        text.add("mlflow_backup_ok", "Whether the last backup was made.", {(): last == "success"})
        if newest:
            made = datetime.datetime.fromisoformat(newest["created"]).timestamp()
            text.add("mlflow_backup_timestamp_seconds", "When the newest backup here was made.", {(): made})
            text.add("mlflow_backup_size_bytes", "Size of the newest backup here.", {(): newest["bytes"]})
    text.add(
        "mlflow_certificate_expiry_timestamp_seconds",
        "When a certificate ends; 0 where it can't be read.",
        {(("path", path),): expiry(path) for path in settings.certificates},
    )
    return str(text)


# The check


def skipped(step_errors: Mapping[str, str], version: str) -> dict[str, Any]:
    """A result without asking the server, because it is not there to be asked."""
    steps = {name: {"ok": False, "milliseconds": 0.0, "error": error} for name, error in step_errors.items()}
    return {"version": version, "ok": False, "steps": steps}


def watch(settings: Settings, environment: Mapping[str, str], state: State) -> dict[str, Any] | None:
    """Check the server once, and heal it: check.py's result with a step ``workers``, or None during a change."""
    version = metadata.version("mlflow")
    with no_change(settings.config) as free:
        if not free:
            state.hung, state.silent = {}, 0
            return None
    unit = shown(SERVICE, "ActiveState", "InvocationID")
    if unit.get("ActiveState") != "active":
        # A client would start it: one that an operator has stopped stays so.
        state.hung, state.silent = {}, 0
        return skipped({"workers": f"{SERVICE} is {unit.get('ActiveState')}"}, version)
    if unit["InvocationID"] != state.invocation:
        state.invocation, state.hung, state.silent, state.answered = unit["InvocationID"], {}, 0, {}
    started = time.perf_counter()
    workers, odd = ask_workers()
    say_odd(odd, state)
    hung = judge(workers, state)
    taken = round((time.perf_counter() - started) * 1000, 1)
    if hung or not workers:
        done = heal(settings, environment, workers, state)
        found = f"{len(hung)} of {len(workers)} workers hang" if hung else "no worker is there"
        error = f"{found}; {done}" if done else found
    else:
        error = None
    # Where nobody answers, one question shows it; the others would take as long again.
    skip = settings.skip if len(hung) < len(workers) else [name for name in check.STEPS if name != "health"]
    result = check.check(server_of(environment), version, skip)
    result["steps"] = {"workers": {"ok": error is None, "milliseconds": taken, "error": error}, **result["steps"]}
    return result | {"ok": result["ok"] and error is None, "hung": len(hung)}


def main() -> int:
    os.chdir("/")
    logs.configure_for_journal(lowest=NOTICE)
    settings = settings_from(os.environ)
    os.environ["RUNTIME_DIRECTORY"] = str(SERVICE_FOLDER)  # where the key to the server and its workers are
    path = STATE_FOLDER / "state.json"
    try:
        state = State(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):  # the first check, or one by another release
        state = State()
    result = watch(settings, os.environ, state)
    if result is not None:
        if result["ok"]:
            state.last_success = time.time()
        said = sentence(result)
        if said != state.said or not result["ok"]:
            state.said = said
            log.log(logging.INFO if result["ok"] else logging.ERROR, "%s", said)
        if settings.metrics_dir and os.path.isdir(settings.metrics_dir):
            try:
                text = metrics(settings, state, result).encode()
                files.write(Path(settings.metrics_dir) / TEXTFILE, text, mode=0o644)
            except (OSError, files.Refusal) as error:
                log.error("the metrics could not be written: %s", error)
    files.write(path, json.dumps(asdict(state)).encode())
    return 0  # what was found is in the journal and in the metrics; the check itself has not failed


if __name__ == "__main__":
    sys.exit(main())
