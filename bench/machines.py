"""Machines for the bench: containers made by ``molecule/shared/machine.py``, and commands in them."""

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT / "molecule" / "shared"))

import machine  # noqa: E402  the path has to come first
from machine import SetupError  # noqa: E402  here too

PREFIX = "mlflow-bench"
SITE = ROOT / "playbooks" / "site.yml"
TOOLS = "/usr/local/share/mlflow-bench"  # our programs, in a machine
PROGRAMS = [
    *(HERE / name for name in ("inside.py", "load.py", "fill.py", "artifact.py", "clients.py")),
    ROOT / "molecule" / "shared" / "traffic.py",
]
CACHE = machine.CACHE  # for what is not measured
COMMAND_SECONDS = 900  # after which any command counts as hung
numbers = itertools.count(1)


class NotMeasured(Exception):
    """A figure that could not be measured; the text says why."""


def say(text: str) -> None:
    """Progress, to standard error, with the time of day."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def run(*command: str) -> str:
    """What the command printed; raises NotMeasured with its last words where it failed or hung."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=COMMAND_SECONDS)
    except subprocess.TimeoutExpired:
        raise NotMeasured(f"`{' '.join(command)[:200]}` did not end within {COMMAND_SECONDS} s") from None
    if done.returncode != 0:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-30:])
        raise NotMeasured(f"`{' '.join(command)[:200]}` failed with status {done.returncode}:\n{said}")
    return done.stdout


class Machine:
    """A running container that stands for a machine."""

    def __init__(self, name: str) -> None:
        self.name = name

    def run(self, *command: str, user: str = "root") -> str:
        return run("docker", "exec", f"--user={user}", self.name, *command)

    def copy(self, source: Path, target: str) -> None:
        self.run("mkdir", "-p", str(Path(target).parent))
        run("docker", "cp", str(source), f"{self.name}:{target}")

    def inside(self, program: str, *arguments: str, user: str = "root") -> Any:
        """What one of the programs that are copied into the machine printed, as JSON."""
        return json.loads(self.run("python3", f"{TOOLS}/{program}", *arguments, user=user))

    @contextmanager
    def beside(self, program: str, *arguments: str) -> Iterator[dict]:
        """One of these programs runs as long as the block does; then the dictionary has what it printed, as JSON.

        It says "started" when it is at work, and ends when its standard input does.
        """
        result: dict = {}
        command = ["docker", "exec", "--interactive", self.name, "python3", f"{TOOLS}/{program}", *arguments]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
            try:
                if running.stdout.readline().strip() != "started":
                    raise NotMeasured(f"{program} did not start in {self.name}")
                yield result
                said, _ = running.communicate(timeout=COMMAND_SECONDS)
                if running.returncode != 0:
                    raise NotMeasured(f"{program} failed with status {running.returncode} in {self.name}")
                result.update(json.loads(said))
            except subprocess.TimeoutExpired:
                raise NotMeasured(f"{program} did not end within {COMMAND_SECONDS} s in {self.name}") from None
            finally:
                running.kill()

    def playbook(self, playbook: Path, *options: str) -> str:
        """Run a playbook against this machine; returns Ansible's output."""
        return run_playbook(playbook, {"mlflow": [self]}, *options)

    def site(self, *options: str) -> str:
        """Provision with our role, with default settings but for what the options say."""
        return site([self], *options)

    def wait_healthy(self) -> None:
        """Wait until the server on port 5001 answers ``/health``."""
        self.inside("inside.py", "start", "5001", "true")


def run_playbook(playbook: Path, groups: dict[str, list[Machine]], *options: str) -> str:
    """Run a playbook over machines that are in these groups; returns Ansible's output."""
    inventory: dict = {group: {"hosts": {each.name: {} for each in members}} for group, members in groups.items()}
    inventory["all"] = {"vars": {"ansible_connection": "community.docker.docker", "ansible_user": "root"}}
    with tempfile.NamedTemporaryFile("w", prefix=f"{PREFIX}-", suffix=".json") as file:
        json.dump(inventory, file)
        file.flush()
        return run("ansible-playbook", "--inventory", file.name, str(playbook), *options)


def site(machines: list[Machine], *options: str) -> str:
    """Provision machines that have nothing to do with each other; see `Machine.site`."""
    return run_playbook(SITE, {"mlflow": machines}, *options)


@contextmanager
def network(purpose: str) -> Iterator[str]:
    """A Docker network of our own, on which machines know each other by name; removed at the end in any case."""
    name = f"{PREFIX}-{purpose}-{os.getpid()}"
    run("docker", "network", "create", name)
    try:
        yield name
    finally:
        machine.run("docker", "network", "rm", name, check=False)


@contextmanager
def several_started(image: str, purpose: str, number: int) -> Iterator[list[Machine]]:
    """So many fresh machines; see `started`."""
    with ExitStack() as stack:
        yield [stack.enter_context(started(image, purpose)) for _ in range(number)]


@contextmanager
def started(image: str, purpose: str, volumes: list[str] | None = None, network: str = "") -> Iterator[Machine]:
    """A fresh machine with our programs in it, removed at the end in any case.

    Args:
        volumes: in Docker's notation, such as CACHE.
        network: Docker's own where empty.
    """
    name = f"{PREFIX}-{purpose}-{os.getpid()}-{next(numbers)}"
    try:
        machine.start(name, image, volumes=volumes, network=network)
        fresh = Machine(name)
        for program in PROGRAMS:
            fresh.copy(program, f"{TOOLS}/{program.name}")
        yield fresh
    except SetupError as error:
        raise NotMeasured(str(error)) from error
    finally:
        machine.remove(name)


def bare_image() -> str:
    return machine.image("bookworm")


def installed_image() -> str:
    """A machine that site.yml has provisioned, so that nothing is downloaded."""
    return machine.image("bookworm-installed")
