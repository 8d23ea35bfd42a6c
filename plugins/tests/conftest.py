"""Runs a module as Ansible does: as a program that reads its arguments and prints JSON."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow_service.system import files

ROOT = Path(__file__).resolve().parents[2]
MODULES = ROOT / "plugins" / "modules"
COLLECTIONS = ROOT / ".venv" / "collections"  # where modules find what they share


@pytest.fixture
def ours() -> Iterator[Path]:
    """A folder that only we can change, as all of those on the way to it, wherever the clone is."""
    for place in (Path.home(), Path("/var/lib")):
        if all(files.is_roots(each.stat()) for each in (place, *place.parents)) and os.access(place, os.W_OK):
            with tempfile.TemporaryDirectory(dir=place) as folder:
                yield Path(folder)
            return
    pytest.fail("there is no folder here that nobody else can write, not even the home")


@pytest.fixture
def module() -> Callable[..., dict]:
    """A function that runs the named module with arguments and returns its result, or the signal that has killed it."""

    def run(module_name: str, /, check: bool = False, **arguments: object) -> dict:
        given = {"ANSIBLE_MODULE_ARGS": {**arguments, "_ansible_check_mode": check, "_ansible_diff": True}}
        program = f"import ansible.module_utils.basic as b; b._ANSIBLE_PROFILE = 'legacy'; import {module_name}; {module_name}.main()"
        done = subprocess.run(
            [sys.executable, "-c", program],
            input=json.dumps(given),
            capture_output=True,
            text=True,
            env={"PYTHONPATH": f"{MODULES}:{COLLECTIONS}", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        )
        if done.returncode < 0:
            return {"killed_by": -done.returncode}
        assert done.stdout, done.stderr
        return json.loads(done.stdout)

    return run
