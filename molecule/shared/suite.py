"""All checks of the repository: ``python molecule/shared/suite.py [--lint | --check | --lane 1/3 | SCENARIO …]``.

Without arguments: lint, unit tests and the program's tests, then every Molecule scenario, some at a time; ``--check``
leaves the scenarios out, and ``--lane 1/3`` does its third of all, for machines that share the work. What a check
prints goes to ``build/test/``; of a failed one the end is shown, and when all have ended, how long each step took
(times.py). The last line is ``N passed, N failed``: pytest's tests where a check has some, the check itself where it
has none.
"""

import argparse
import concurrent.futures
import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import machine
import times
import yaml

ROOT = Path(__file__).resolve().parents[2]
LOGS = ROOT / "build" / "test"
AT_ONCE = 3  # scenarios; of two, both often wait for something, and more than three only wait for the two cores
# The first starts from bare machines, so that it need not wait until site.yml has provisioned others.
LONG = ["default", "ha", "postgresql", "ssh", "upgrade_failure", "monitoring", "removal", "restore", "gcs", "backup"]
LONG += ["upgrade", "front", "replica", "access", "pgbouncer", "compose", "failure", "secrets", "boundary", "offline"]
SHOWN_LINES = 120
LOOK_SECONDS = 0.5
ANSI = re.compile(r"\x1b\[[0-9;]*m")
CHECKS = {
    "yamllint": ["yamllint", "--strict", "."],
    "ruff check": ["ruff", "check", "."],
    "ruff format": ["ruff", "format", "--check", "."],
    "floors": ["lint-imports", "--no-cache", "roles/mlflow/files/mlflow_service/pyproject.toml"],
    "ansible-lint": ["ansible-lint", "--offline"],
    "changelog": ["antsibull-changelog", "lint"],
    "documents": ["python", "molecule/shared/documents.py", "--check"],
    "site": ["mkdocs", "build", "--strict", "--config-file", ".mkdocs.yml"],
    "unit tests": ["pytest", "--quiet"],
    "program's tests": ["python", "molecule/shared/program.py"],
}
UNITS, PROGRAM = "unit tests", "program's tests"
TESTS = {UNITS, PROGRAM}


@dataclass
class Check:
    """One command and how it went; `clean_up` is run after it where it fails."""

    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    clean_up: list[str] = field(default_factory=list)
    passed: int = 0
    failed: int = 0
    seconds: float = 0.0
    clock: times.Clock = field(default_factory=times.Clock)

    def run(self) -> "Check":
        started = time.monotonic()
        log = LOGS / f"{self.file_name}.log"
        self.report.unlink(missing_ok=True)
        with log.open("w") as output, log.open(errors="replace") as written:
            status = self.execute(
                self.command, output, lambda: [self.clock.see(ANSI.sub("", line)) for line in written]
            )
        self.clock.end()
        self.seconds = time.monotonic() - started
        if status != 0 and self.clean_up:
            self.execute(self.clean_up, subprocess.DEVNULL)
        said = ANSI.sub("", log.read_text(errors="replace"))
        self.count(said, status)
        verdict = "ok" if status == 0 else "FAILED"
        print(f"{verdict:7}{self.name:28}{self.seconds:7.0f} s   {self.passed} passed", flush=True)
        if status != 0:
            print("\n".join(said.splitlines()[-SHOWN_LINES:]), flush=True)
            print(f"The whole of it: {log.relative_to(ROOT)}", flush=True)
        return self

    @property
    def report(self) -> Path:
        """Where pytest says how long each test took."""
        return LOGS / f"{self.file_name}.xml"

    @property
    def file_name(self) -> str:
        return self.name.replace(" ", "-").replace("'", "")

    def execute(self, command: list[str], output: IO[str] | int, look: Callable[[], object] = bool) -> int:
        """Run a command, and look at what it has written each moment; returns its status."""
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTEST_ADDOPTS": f"--junitxml={self.report}", **self.environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(LOOK_SECONDS)
            look()

    @property
    def measured(self) -> dict[str, object]:
        """How long it took, and its steps and tests; in seconds."""
        return {"seconds": round(self.seconds, 1), "steps": self.clock.steps, "tests": times.tests(self.report)}

    def count(self, said: str, status: int) -> None:
        """Add up pytest's closing lines; a failed check counts as at least one failure."""
        closing = [line for line in said.splitlines() if re.search(r"\d+ (passed|failed|error).* in [\d.]+", line)]
        for line in closing:
            self.passed += sum(int(number) for number in re.findall(r"(\d+) passed", line))
            self.failed += sum(int(number) for number in re.findall(r"(\d+) (?:failed|error)", line))
        if status != 0:
            self.failed = max(self.failed, 1)
        elif not closing:
            self.passed = 1


def scenarios() -> list[str]:
    """Names of all scenarios, those that take longest first, so that none is left to run alone at the end."""
    names = {file.parent.name for file in (ROOT / "molecule").glob("*/molecule.yml")}
    return sorted(names, key=lambda name: (LONG.index(name) if name in LONG else len(LONG), name))


def scenario_check(name: str) -> Check:
    environment = {"PY_COLORS": "0", "ANSIBLE_FORCE_COLOR": "0", "NO_COLOR": "1", "COLUMNS": "200"}
    test, destroy = (["molecule", step, "--scenario-name", name] for step in ("test", "destroy"))
    # Molecule destroys the machines of a test that failed, but not where it failed itself.
    return Check(f"scenario {name}", test, environment, clean_up=destroy)


def images(name: str) -> list[str]:
    """What the machines of a scenario start from."""
    platforms = yaml.safe_load((ROOT / "molecule" / name / "molecule.yml").read_text())["platforms"]
    return sorted({platform["image"] for platform in platforms if "image" in platform})


def run_scenario(name: str) -> Check:
    """Run a scenario as soon as there is what its machines start from."""
    check = scenario_check(name)
    try:
        for image in images(name):
            machine.image(image)
    except machine.SetupError as error:
        print(f"FAILED {check.name}: {error}", flush=True)
        check.failed = 1
        return check
    return check.run()


def lane(text: str) -> tuple[int, int]:
    """``2/3`` as the second of three."""
    number, of = (int(part) for part in text.split("/"))
    if not 1 <= number <= of:
        raise ValueError(text)
    return number, of


def read(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The checks and the scenarios that are asked for."""
    parser = argparse.ArgumentParser(description="Check the repository.")
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="only these")
    parser.add_argument("--lint", action="store_true", help="only lint")
    parser.add_argument("--check", action="store_true", help="no scenarios")
    parser.add_argument(
        "--lane", type=lane, default=(1, 1), metavar="N/M", help="one of so many parts of all scenarios"
    )
    given = parser.parse_args(arguments)
    if unknown := set(given.scenarios) - set(scenarios()):
        parser.error(f"no scenario is called {', '.join(sorted(unknown))}; there are {', '.join(scenarios())}")
    number, of = given.lane
    checks = [] if given.scenarios or number > 1 else [name for name in CHECKS if not (given.lint and name in TESTS)]
    if given.lint or given.check:
        return checks, []
    return checks, given.scenarios or scenarios()[number - 1 :: of]


def run_in_turn(names: list[str]) -> list[Check]:
    return [Check(name, CHECKS[name]).run() for name in names]


def main(arguments: list[str]) -> int:
    LOGS.mkdir(parents=True, exist_ok=True)
    wanted, named = read(arguments)
    done: list[Check] = []
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool, concurrent.futures.ThreadPoolExecutor() as makers:
        checks = [pool.submit(run_in_turn, [name for name in wanted if name not in TESTS])]
        checks.append(pool.submit(run_in_turn, [name for name in wanted if name == UNITS]))
        try:
            if PROGRAM in wanted or named:
                machine.image("bookworm")  # once, before several ask for it
            checks.append(pool.submit(run_in_turn, [name for name in wanted if name == PROGRAM]))
            makers.map(machine.image, dict.fromkeys(image for name in named for image in images(name)))  # meanwhile
            done += pool.map(run_scenario, named)
        except machine.SetupError as error:
            print(error)
            done.append(Check("images", [], failed=1))
        for each in checks:
            done += each.result()
    times.keep({check.name: check.measured for check in done if check.seconds})
    print(times.report({check.name: check.measured for check in done}), flush=True)
    passed, failed = sum(check.passed for check in done), sum(check.failed for check in done)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
