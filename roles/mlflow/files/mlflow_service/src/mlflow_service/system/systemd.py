"""systemd, through its own commands. Standard library only."""

import subprocess

SERVICE, SOCKET = "mlflow.service", "mlflow.socket"


class SystemdError(Exception):
    """systemd did not do what it was told; the text is one sentence for a person."""


def systemctl(*arguments: str) -> None:
    """Tell systemd something; raises SystemdError with what it says where it does not do it."""
    done = subprocess.run(["systemctl", *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        said = " ".join(done.stderr.split("See ", 1)[0].split()).rstrip(".")
        raise SystemdError(f"systemctl {' '.join(arguments)}: {said}")


def shown(unit: str, *properties: str) -> dict[str, str]:
    """Properties of a unit, as systemd shows them; without those that it does not know."""
    command = ["systemctl", "show", f"--property={','.join(properties)}", unit]
    lines = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def last_words(unit: str, lines: int) -> str:
    """The last lines that a unit has logged since it was last started."""
    command = ["journalctl", f"--lines={lines}", "--no-pager", "--output=cat"]
    invocation = shown(unit, "InvocationID").get("InvocationID", "")
    return subprocess.run([*command, f"_SYSTEMD_INVOCATION_ID={invocation}"], capture_output=True, text=True).stdout
