"""The settings file that Ansible writes and systemd and a shell read, such as ``/etc/mlflow/mlflow.env``."""

import re
from pathlib import Path

LINE = re.compile(r'^(\w+)="((?:[^"\\]|\\.)*)"$', re.MULTILINE | re.DOTALL)


def read(path: str | Path) -> dict[str, str]:
    """The variables of a settings file; the opposite of the role's filter ``env_line``."""
    lines = LINE.findall(Path(path).read_text(encoding="utf-8"))
    return {name: re.sub(r'\\(["\\`$])', r"\1", value) for name, value in lines}
