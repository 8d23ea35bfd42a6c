"""A real MLflow client that is imported once and runs one script after the other, each in a fork of its own.

Importing MLflow takes longer than most of the scripts. Standard input has a JSON object a line, ``{"script",
"arguments", "environment"}``; for each one comes back, ``{"status", "output", "errors"}``. It ends with its input.
"""

import json
import os
import runpy
import signal
import sys
import tempfile

import mlflow.sklearn  # noqa: F401  what scripts import
import sklearn.linear_model  # noqa: F401  and this too

SECONDS = 300  # that a script may take


def become(script: str, arguments: list[str], environment: dict[str, str], output: int, errors: int) -> None:
    """Run a script as if this process had been started for it; never returns."""
    signal.alarm(SECONDS)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(errors, 2)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")
    sys.exit()


def run(script: str, arguments: list[str], environment: dict[str, str]) -> dict:
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        if (child := os.fork()) == 0:
            become(script, arguments, environment, output.fileno(), errors.fileno())
        _, status = os.waitpid(child, 0)
        said = []
        for file in (output, errors):
            file.seek(0)
            said.append(file.read().decode(errors="replace"))
    return {"status": os.waitstatus_to_exitcode(status), "output": said[0], "errors": said[1]}


for line in sys.stdin:
    print(json.dumps(run(**json.loads(line))), flush=True)
