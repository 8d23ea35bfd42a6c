"""An attacker on the machine, what it must not reach, and what there is outside the service's folders."""

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import machine as machines
import pytest
from fixtures import ROOT, Machine, kill_run
from scene import CREATED, MARK, PRECIOUS, SECRET, Done, Run

ON_MACHINE = ROOT / "molecule" / "boundary" / "on_machine"
ATTACKER = (ON_MACHINE / "attacker.py").read_text()
END_ENTERED = (ON_MACHINE / "end_entered.py").read_text()
# Into the service's control group, as a server that was taken over; the second place is that of hosts with both versions.
INSIDE = """
group=$(systemctl show --property ControlGroup --value mlflow.service)
for file in /sys/fs/cgroup$group/cgroup.procs /sys/fs/cgroup/unified$group/cgroup.procs; do
    test ! -w $file || echo $$ > $file
done
exec "$@"
"""
AS_SERVICE = ["setpriv", "--reuid=mlflow", "--regid=mlflow", "--init-groups", "--no-new-privs"]
# What a run writes, and what every program may note down.
CHANGING = [
    "/etc/mlflow/rollback*",
    "/etc/mlflow/mlflow.env",
    "/opt/mlflow/.build.lock",
    "*/__pycache__*",
    "/root/.ansible*",
]
PLACES = "/etc /usr/local /usr/bin /usr/sbin /srv /root /opt /boot /home /var/spool"


@pytest.fixture(scope="session")
def secret() -> str:
    """What only root may read."""
    return f"only for root {os.urandom(16).hex()}"


@pytest.fixture
def scene(machine: Machine, secret: str) -> Iterator[list[str]]:
    """Things of root's; nothing outside the service's folders changes during a test, but what fits a pattern put here."""
    machine.run(
        f"rm -rf {PRECIOUS} {CREATED} && mkdir -m 700 {PRECIOUS} && cd {PRECIOUS} && umask 077"
        f" && mkdir folder && echo kept > folder/file && echo kept > file && echo '{secret}' > {SECRET}"
    )
    before = outside(machine)
    may_change: list[str] = []
    yield may_change
    after = outside(machine)
    assert sorted(line for line in after ^ before if not any(re.search(each, line) for each in may_change)) == []


def outside(machine: Machine) -> set[str]:
    """Everything of root's on the machine: path, kind, mode, owner, group; of files also size and time of change."""
    skipped = " -o ".join(f"-path '{pattern}'" for pattern in CHANGING)
    shown = "-type f -printf '%p %y %m %U %G %s %T@\\n' -o -printf '%p %y %m %U %G %l\\n'"
    return set(
        machine.run(f"find {PLACES} -xdev \\( {skipped} -o -path '*/lib/python3*' \\) -prune -o {shown}").splitlines()
    )


@pytest.fixture
def attack(machine: Machine, secret: str, scene: list[str]) -> Callable[..., AbstractContextManager[None]]:
    """A function that has the service's account attack for as long as a block lasts; see on_machine/attacker.py.

    With ``inside`` as a process of the service, which ends with it. Whatever the attacker receives, a secret is not in
    it, and root has run nothing of its.
    """

    @contextmanager
    def begin(*attacks: str, inside: bool = False) -> Iterator[None]:
        command = ["docker", "exec", "--interactive", machine.name, *(["sh", "-c", INSIDE, "sh"] if inside else [])]
        command += [*AS_SERVICE, "python3", "-I", "-c", ATTACKER]
        attacker = subprocess.Popen([*command, *attacks], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert attacker.stdout.readline().strip() == "ready"
        try:
            yield
        finally:
            said, _ = attacker.communicate(timeout=60)
        received = json.loads(said)["received"]
        assert [text for text in received if secret in text] == [], "a secret of root's came to the service"
        assert machine.host.run("cat %s", MARK).stdout == "", "root ran what the service had written"

    return begin


@pytest.fixture
def as_root(machine: Machine) -> Callable[..., Done]:
    """A function that runs a command on the machine as root: what it printed, and that it ended in time."""

    def run(command: str, seconds: int = 60) -> Done:
        done = machine.host.run(f"timeout --kill-after=2 {seconds} sh -c '{command}'")
        return Done(done.rc, done.stdout + done.stderr)

    return run


@pytest.fixture
def run_playbook(machine: Machine) -> Callable[..., Run]:
    """A function that runs a playbook over the machine, which must end in time."""

    def run(*arguments: str, playbook: str = "playbooks/site.yml", seconds: int = 150, **settings: object) -> Run:
        given = ("--extra-vars", json.dumps(settings)) if settings else ()
        started = machine.start_playbook(*arguments, *given, playbook=playbook)
        try:
            output, _ = started.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            kill_run(started)
            machine.host.check_output("python3 -I -c %s", END_ENTERED)  # what it waits for does not come
            pytest.fail(f"{playbook} did not end within {seconds} s")
        return Run(started.returncode, output)

    return run


@pytest.fixture
def ask_module(machine: Machine) -> Callable[..., Run]:
    """A function that runs one of our modules on the machine."""

    def run(module: str, **arguments: object) -> Run:
        inventory = os.environ["MOLECULE_INVENTORY_FILE"]
        command = ["ansible", "--inventory", inventory, machine.name, "--module-name", module]
        done = subprocess.run(
            [*command, "--args", json.dumps(arguments)],
            cwd=ROOT,
            env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
            capture_output=True,
            text=True,
            timeout=120,
        )
        return Run(done.returncode, done.stdout + done.stderr)

    return run


@pytest.fixture
def journal(machine: Machine) -> Callable[[str], str]:
    """A function that returns what a unit has logged since the test began."""
    cursor = machine.run("journalctl --lines=0 --show-cursor --quiet").partition("cursor: ")[2].strip()
    return lambda unit: machine.host.check_output(
        "journalctl --unit=%s --after-cursor=%s --output=cat --quiet", unit, cursor
    )


@pytest.fixture
def victims(machine: Machine) -> Iterator[dict[str, int]]:
    """Programs of root's that the service has no business with, by name with their pid: they end for no signal."""
    code = """
import signal, socket, sys
for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
while True:
    signal.pause()
"""
    names = ["victim-listens", "victim-sleeps"]
    for name in names:
        machine.host.check_output(
            "rm -f %s && systemd-run --quiet --collect --unit=%s python3 -I -c %s %s",
            f"/run/{name}.sock",
            name,
            code,
            f"/run/{name}.sock",
        )
    machine.run(
        "timeout 20 sh -c 'until test -S /run/victim-listens.sock && test -S /run/victim-sleeps.sock; do sleep .1; done'"
    )
    pids = {name: int(machine.run(f"systemctl show --property MainPID --value {name}")) for name in names}
    yield pids
    machines.docker("exec", machine.name, "systemctl", "kill", "--signal=KILL", *names, check=False)


@pytest.fixture(scope="session")
def terminal() -> str:
    """The program that runs a command in a terminal of its own."""
    return (ON_MACHINE / "terminal.py").read_text()
