"""What every scenario's tests start from: the machine under test, its clients and its Ansible runs.

pytest finds it by molecule/conftest.py.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

import machine as machines
import pytest
import testinfra
import testinfra.host

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT / "molecule" / "shared"
CLIENT_VENV = ROOT / "build" / "client"
LOCKS = ROOT / "roles" / "mlflow" / "files" / "locks"
DEFAULT_VERSION = "3.17.2"


@dataclass
class Run:
    """What one run of ansible-playbook did."""

    status: int
    output: str

    @property
    def said(self) -> str:
        """The output as one line, so that a sentence in it can be found."""
        return " ".join(self.output.split())

    @property
    def changed(self) -> int:
        """Tasks that changed something, or would have, on all machines."""
        return sum(map(int, re.findall(r"changed=(\d+)", self.output.rpartition("PLAY RECAP")[2])))


@dataclass
class Traffic:
    """What clients saw while `Machine.traffic` lasted."""

    answered: int = 0
    stored: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    longest_seconds: float = 0.0

    @property
    def created(self) -> int:
        """Runs that the server said it has stored."""
        return len(self.stored)


class Machine:
    """A machine under test: a container with systemd, and the server on it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.host = testinfra.get_host(f"docker://{name}")
        self.port = 5001

    @property
    def url(self) -> str:
        """Where clients on the control node reach the server: the published port."""
        return f"http://{machines.docker('port', self.name, str(self.port)).splitlines()[0]}"

    def run(self, command: str) -> str:
        """What a command on the machine prints; it must succeed."""
        return self.host.check_output(command)

    @staticmethod
    def psql(statement: str, database: str) -> tuple[str, str, str]:
        """A command that asks the PostgreSQL on a machine as its superuser, with what testinfra is to quote in it."""
        return "cd / && runuser -u postgres -- psql --tuples-only --no-align %s --command %s", database, statement

    def sql(self, statement: str, database: str = "mlflow") -> str:
        """What the PostgreSQL on the machine answers."""
        return self.host.check_output(*self.psql(statement, database))

    def start_playbook(self, *arguments: str, playbook: str = "playbooks/site.yml") -> subprocess.Popen:
        """Start a playbook over this machine alone, with the scenario's inventory, in a process group of its own."""
        inventory = os.environ["MOLECULE_INVENTORY_FILE"]
        return subprocess.Popen(
            ["ansible-playbook", "--inventory", inventory, "--limit", self.name, *arguments, playbook],
            cwd=ROOT,
            env={
                **os.environ,
                "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
                "ANSIBLE_NOCOLOR": "1",
                "ANSIBLE_FORCE_COLOR": "0",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def playbook(self, *arguments: str, playbook: str = "playbooks/site.yml") -> Run:
        """Run a playbook over this machine alone, with the scenario's inventory."""
        run = self.start_playbook(*arguments, playbook=playbook)
        output, _ = run.communicate()
        return Run(run.returncode, output)

    def converge(self, **settings: object) -> Run:
        """Run site.yml with the settings; it must succeed."""
        done = self.playbook("--extra-vars", json.dumps(settings))
        assert done.status == 0, done.output[-6000:]
        return done

    def refuses(self, **settings: object) -> str:
        """Run site.yml with the settings; it must fail. Returns what it said, as one line."""
        done = self.playbook("--extra-vars", json.dumps(settings))
        assert done.status != 0, "site.yml accepted what it should refuse"
        return done.said

    def refuses_each(self, cases: Iterable[tuple], *arguments: str, playbook: str = "playbooks/site.yml") -> Run:
        """Run a playbook once with the settings of all cases, each a host with this machine behind it.

        Args:
            cases: of each its settings, and the sentences that its failure must say.
            arguments: more of them for ansible-playbook.
            playbook: the one that must refuse them.
        """
        cases = list(cases)
        scenario = ("--inventory", os.environ["MOLECULE_INVENTORY_FILE"])
        own = json.loads(machines.run("ansible-inventory", *scenario, "--host", self.name).stdout)
        hosts = {
            f"case-{number}": own | {"ansible_host": self.name} | settings
            for number, (settings, *_) in enumerate(cases)
        }
        with tempfile.NamedTemporaryFile("w", suffix=".json") as inventory:
            inventory.write(json.dumps({"cases": {"hosts": hosts}}))
            inventory.flush()
            over = ("--inventory", inventory.name, "--limit", "cases", "--extra-vars", "target=cases")
            run = self.playbook(*arguments, *over, playbook=playbook)
        failed = re.findall(r"^(case-\d+) .* failed=1 ", run.output.rpartition("PLAY RECAP")[2], re.MULTILINE)
        assert sorted(failed) == sorted(hosts), run.output[-6000:]
        results = re.split(r"^(?:\w+: \[(case-\d+)\b.*?\]|TASK .*|\[ERROR\].*)", run.output, flags=re.MULTILINE)
        said = dict.fromkeys(hosts, "")
        for name, text in zip(results[1::2], results[2::2], strict=True):
            if name:
                said[name] += " ".join(text.split()).replace("''", "'")
        for words, (_, *sentences) in zip(said.values(), cases, strict=True):
            assert [sentence for sentence in sentences if sentence not in words] == [], words
        return run

    def listens_on(self, port: int) -> bool:
        """Whether anything accepts connections on the TCP port."""
        return self.host.run(f"python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", {port}))'").rc == 0

    def state(self) -> list[str]:
        """What any change to the installation would show in: the units' starts and every file of ours."""
        units = self.run(
            "systemctl show --property Id,ActiveEnterTimestampMonotonic,MainPID mlflow.socket mlflow.service"
        )
        folders = "/etc/mlflow /etc/systemd/system /usr/local/sbin /opt/mlflow /opt/mlflow/releases"
        shown = "-type d -printf '%p %m %u %g\\n' -o -printf '%p %C@ %m %u %g %l\\n'"
        files = self.run(f"find {folders} -maxdepth 1 ! -name '.build*' \\( {shown} \\)")
        return [*units.split(), *sorted(files.splitlines())]

    def is_healthy(self) -> bool:
        """Whether mlflow-check says so; where the server is just starting, on a busy machine too, it waits for that."""
        return self.host.run("mlflow-check --timeout 120").rc == 0

    def wait_left_alone(self) -> None:
        """Wait until what somebody began here from outside has ended, as a module does whose run was killed."""
        # Docker's children have no parent inside; the one that looks is one of them.
        entered = "awk '/^Pid:/ {pid = $2} /^PPid:/ && $2 == 0 && pid != 1 {print pid}' /proc/[0-9]*/status"
        wait_until(lambda: len(self.host.run(entered).stdout.split()) == 1, 60, "nobody is at work on the machine")

    def main_pid(self) -> int:
        return int(self.run("systemctl show --property MainPID --value mlflow.service"))

    def children(self, pid: int) -> list[int]:
        return [int(child) for child in self.run(f"cat /proc/{pid}/task/{pid}/children").split()]

    def workers(self) -> list[int]:
        """Process ids of uvicorn's workers; its other child is multiprocessing's tracker."""
        (uvicorn,) = self.children(self.main_pid())
        return [pid for pid in self.children(uvicorn) if "spawn_main" in self.command_line(pid)]

    def command_line(self, pid: int) -> str:
        """A process's words, or nothing where it has ended."""
        return self.host.run(f"tr '\\0' ' ' < /proc/{pid}/cmdline").stdout

    def catch_change(self, phase: str, sent: signal.Signals = signal.SIGSTOP) -> None:
        """Wait until a change is in the phase, and send its program a signal there; see mlflow_service/change."""
        code = """
import glob, json, os, sys, time
while True:
    try:
        if json.load(open("/etc/mlflow/rollback/change.json"))["phase"] == sys.argv[1]:
            break
    except (OSError, ValueError):
        pass
    time.sleep(0.002)  # a phase may last no longer than a few of these
for path in glob.glob("/proc/[0-9]*/cmdline"):
    words = open(path, "rb").read().split(b"\\0") if os.path.exists(path) else []
    if b"mlflow_service.change" in words and b"take-up" in words:
        os.kill(int(path.split("/")[2]), int(sys.argv[2]))
"""
        self.host.check_output("timeout 180 python3 -c %s %s %s", code, phase, str(int(sent)))

    def record_change(self) -> dict:
        """What began the change that is under way here, ``command`` and ``request``, for `begin_change`."""
        code = """
import glob, json, os
request = json.load(open("/etc/mlflow/rollback/change.json"))["request"]
for path in glob.glob("/proc/[0-9]*/cmdline"):
    words = open(path).read().split("\\0")[:-1] if os.path.exists(path) else []
    if words and os.path.basename(words[0]) == "systemd-run" and "take-up" in words:
        print(json.dumps({"command": words, "request": request}))
"""
        return json.loads(self.host.check_output("python3 -c %s", code))

    def begin_change(self, recorded: dict, **other: object) -> subprocess.Popen:
        """Begin a recorded change as Ansible does, whose part is done: files and release are in place.

        Args:
            recorded: see `record_change`.
            other: what is asked for in place of what was recorded.
        """
        command = ["docker", "exec", "--interactive", self.name, *recorded["command"]]
        begun = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        begun.stdin.write(json.dumps({**recorded["request"], **other}))
        begun.stdin.close()
        begun.stdin = None  # communicate() would write to it
        return begun

    def change(self, recorded: dict, **other: object) -> dict:
        """The report of a recorded change that has come to its end."""
        said, _ = self.begin_change(recorded, **other).communicate()
        return json.loads(said)

    def lose_power(self) -> None:
        """Without a word to anybody; then boot again."""
        machines.docker("kill", self.name)
        machines.docker("start", self.name)
        machines.wait_booted(self.name)

    def reboot(self) -> None:
        machines.docker("restart", self.name)
        machines.wait_booted(self.name)

    def client(self, script: str, *arguments: str, url: str = "") -> dict:
        """Run a script of molecule/shared/clients with a real MLflow client; returns the JSON that it prints."""
        environment = {
            **os.environ,
            "MLFLOW_TRACKING_URI": url or self.url,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "PYTHONPATH": "",
        }
        asked = {"script": str(SHARED / "clients" / script), "arguments": arguments, "environment": environment}
        process = client_process()
        process.stdin.write(json.dumps(asked) + "\n")
        process.stdin.flush()
        done = json.loads(process.stdout.readline())
        assert done["status"] == 0, done["output"] + done["errors"]
        return json.loads(done["output"].strip().splitlines()[-1])

    def differences_from_stock(self) -> dict[str, list]:
        """Where the server that is started differs from what ``mlflow server`` starts, by case; see stock.py."""
        script = """
set -ae; . /etc/mlflow/mlflow.env; cd $(mktemp -d); chown mlflow .; HOME=$MLFLOW_SERVICE_HOME
exec setpriv --reuid=mlflow --regid=mlflow --init-groups /opt/mlflow/current/bin/python -c "$0" "$PWD"
"""
        said = self.host.check_output("sh -c %s %s", script, (SHARED / "stock.py").read_text())
        return json.loads(said.splitlines()[-1])

    def burst(self, clients: int, path: str, body: dict) -> list[int]:
        """Status of the answer to each of so many clients on the machine that send one request at the same moment."""
        code = """
import concurrent.futures, http.client, json, sys
port, clients, path, body = sys.argv[1:]
def ask(number):
    client = http.client.HTTPConnection("127.0.0.1", int(port), timeout=120)
    client.request("POST", path, body, {"Content-Type": "application/json"})
    return client.getresponse().status
with concurrent.futures.ThreadPoolExecutor(int(clients)) as pool:
    print(json.dumps(list(pool.map(ask, range(int(clients))))))
"""
        arguments = (code, str(self.port), str(clients), path, json.dumps(body))
        return json.loads(self.host.check_output("python3 -c %s %s %s %s %s", *arguments))

    @contextmanager
    def traffic(self, threads: int = 4, *options: str) -> Iterator[Traffic]:
        """Clients on the machine that go on for as long as the block lasts; the result is whole after it."""
        seen = Traffic()
        command = ["docker", "exec", "--interactive", self.name, "python3", "-c", (SHARED / "traffic.py").read_text()]
        clients = subprocess.Popen(
            [*command, str(self.port), str(threads), *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert clients.stdout.readline().strip() == "started"
        try:
            yield seen
        finally:
            said, _ = clients.communicate(timeout=600)
        seen.__dict__.update(json.loads(said))


def client_python() -> Path:
    """A Python with the MLflow that clients have: a virtual environment of its own, from the role's lock."""
    python = CLIENT_VENV / "bin" / "python"
    if not python.exists():
        uv = [str(Path(sys.executable).with_name("uv"))]
        environment = {**os.environ, "UV_SYSTEM_CERTS": "true"}
        building = CLIENT_VENV.with_name(f"client-{os.getpid()}")
        machines.run(*uv, "venv", "--quiet", "--relocatable", "--no-project", "--python", sys.executable, str(building))
        machines.run(
            *(*uv, "pip", "install", "--quiet", "--require-hashes"),
            *("--python", str(building / "bin" / "python")),
            *("-r", str(LOCKS / f"mlflow-{DEFAULT_VERSION}.txt")),
            env=environment,
        )
        try:
            building.rename(CLIENT_VENV)
        except OSError:  # a scenario beside this one was faster
            machines.run("rm", "-r", str(building))
    return python


@cache
def client_process() -> subprocess.Popen:
    """The MLflow client of this run of pytest, which ends with it."""
    command = [str(client_python()), str(SHARED / "client_process.py")]
    # What it imports is compiled the first time, whatever a developer's own environment says of that.
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONPATH": "", "PYTHONDONTWRITEBYTECODE": ""}
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def processes() -> Iterator[tuple[int, str, int]]:
    """Each process, its state and its parent; see proc(5)."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            state, parent = status.read_text().rpartition(")")[2].split()[:2]
            yield int(status.parent.name), state, int(parent)


def stands_still(pid: int) -> bool:
    """Whether a process is stopped, or gone."""
    return all(state in "TZ" for each, state, _ in processes() if each == pid)


def kill_run(run: subprocess.Popen) -> None:
    """Kill a playbook's run with its workers, which have sessions of their own: the control node loses its power."""
    family = [run.pid]
    for member in family:  # which grows meanwhile, and not by a worker that begins just now
        with suppress(ProcessLookupError):
            os.kill(member, signal.SIGSTOP)
        wait_until(partial(stands_still, member), 30, f"process {member} stands still")
        family += [pid for pid, _, parent in processes() if parent == member]
    for pid in family:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def wait_until(true: Callable[[], bool], seconds: float, what: str) -> None:
    """Return as soon as it is true; fail the test when it is not within the time."""
    deadline = time.monotonic() + seconds
    looked = time.monotonic()
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        # Looking takes a processor's time, which what is waited for wants too.
        time.sleep(min(2, max(0.1, 4 * (time.monotonic() - looked))))
        looked = time.monotonic()


@pytest.fixture
def machine(host: testinfra.host.Host) -> Machine:
    """The machine under test; when a test on it fails, its journal is printed below the failure."""
    return Machine(host.backend.host)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()
    if report.when == "call" and report.failed and "machine" in item.fixturenames:
        journal = item.funcargs["machine"].host.run("journalctl --unit=mlflow --lines=40 --no-pager --output=cat")
        report.sections.append(("journal of mlflow", journal.stdout))
