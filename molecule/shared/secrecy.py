"""Places where a secret could show."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import machine as machines

# Prints every command line that there was, once, when standard input has ended. A process that has been there for a
# while seldom becomes another one: it is looked at each tenth time, or looking would take half a processor.
WATCHER = """
import json, os, sys, threading
stop, seen, looks = threading.Event(), set(), {}
threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
print("started", flush=True)
while not stop.wait(0.005):
    looks = {pid: looks.get(pid, 0) + 1 for pid in os.listdir("/proc") if pid.isdigit()}
    for pid in [pid for pid, times in looks.items() if times < 20 or times % 10 == 0]:
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                seen.add(file.read().replace(b"\\0", b" "))
        except OSError:
            continue
print(json.dumps(sorted(line.decode(errors="replace") for line in seen)))
"""
FOLDERS = "/etc /opt/mlflow/current/ /var/lib/mlflow /var/log /tmp /var/tmp /root /run"


def is_seen_from_here(machine: str) -> bool:
    """Whether the machine's processes are among those of the control node, as where Docker runs there too."""
    pid = machines.docker("inspect", "--format", "{{.State.Pid}}", machine)
    with suppress(OSError):
        return os.readlink(f"/proc/{pid}/ns/pid") == machines.docker("exec", machine, "readlink", "/proc/1/ns/pid")
    return False


@contextmanager
def watched_command_lines(machine: str, secrets: list[str], control_node: bool = False) -> Iterator[list[str]]:
    """Command lines with a secret, of any process on the machine while the block lasts; the list is whole after it.

    Args:
        machine: name of the container.
        secrets: what to look for; the block may add some that it only then learns of.
        control_node: whether to look at the processes here, too.
    """
    watch = ["python3", "-c", WATCHER]
    commands = [watch] if control_node else []
    if not control_node or not is_seen_from_here(machine):
        commands.append(["docker", "exec", "--interactive", machine, *watch])
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    watchers = [subprocess.Popen(command, **pipes) for command in commands]
    seen: list[str] = []
    try:
        for watcher in watchers:
            assert watcher.stdout.readline().strip() == "started"
        yield seen
    finally:
        said = [watcher.communicate(timeout=30)[0] for watcher in watchers]
    lines = {line for lines in said for line in json.loads(lines)}
    seen += sorted(line[:500] for line in lines if any(secret in line for secret in secrets))


def files_with(machine: str, secrets: list[str], condition: str = "") -> list[str]:
    """Files on the machine that have one of the secrets, of those that `find` selects by the condition.

    What the image of the machine has, such as its release, is older than any secret of a scenario.
    """
    search = f"find {FOLDERS} -xdev -type f -newer /.dockerenv {condition} -print0 | xargs -0 grep -lF -f /run/secrets"
    command = f"umask 077; cat > /run/secrets; {search}; rm /run/secrets"
    done = machines.run(
        *("docker", "exec", "--interactive", machine, "sh", "-c", command), input="\n".join(secrets) + "\n"
    )
    return sorted(set(done.stdout.split()) - {"/run/secrets"})
