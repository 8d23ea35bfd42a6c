"""Seconds that the checks take, by scenario, step and test.

    python molecule/shared/times.py         the slowest steps and tests of the last runs here
    python molecule/shared/times.py --keep  writes the table of molecule/README.md from them

`suite.py` measures and keeps them in ``build/test/seconds.json``; a run of one scenario renews its entry.
"""

import json
import re
import sys
import time
import xml.etree.ElementTree
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "build" / "test" / "seconds.json"
README = ROOT / "molecule" / "README.md"
STEP = re.compile(r"^INFO +\[\S+ > (\w+)\] Executing$")
STEPS = ("create", "prepare", "check", "converge", "idempotence", "verify", "destroy")
BEGIN, END = "<!-- seconds: written by `python molecule/shared/times.py --keep` -->", "<!-- end of seconds -->"
SLOWEST = 15

Seconds = dict[str, dict[str, Any]]  # {"scenario x": {"seconds": …, "steps": {step: …}, "tests": {test: …}}}


class Clock:
    """What Molecule is doing, by the lines that it prints; steps of the same name count together."""

    def __init__(self) -> None:
        self.steps: dict[str, float] = {}
        self.step, self.since = "", time.monotonic()

    def see(self, line: str) -> None:
        """Take note of a line without colours."""
        if found := STEP.match(line.rstrip()):
            self.end()
            self.step = found[1]

    def end(self) -> None:
        """End the step that is under way."""
        now = time.monotonic()
        if self.step:
            self.steps[self.step] = round(self.steps.get(self.step, 0.0) + now - self.since, 1)
        self.step, self.since = "", now


def tests(report: Path) -> dict[str, float]:
    """Seconds of each test in a JUnit report of pytest, with its fixtures; none where there is no report."""
    if not report.exists():
        return {}
    cases = xml.etree.ElementTree.parse(report).iter("testcase")
    return {f"{case.get('classname')}::{case.get('name')}": round(float(case.get("time", 0)), 1) for case in cases}


def read() -> Seconds:
    return json.loads(KEPT.read_text()) if KEPT.exists() else {}


def keep(news: Seconds) -> None:
    """Renew the entries of checks that have run."""
    KEPT.write_text(json.dumps({**read(), **news}, indent=1, sort_keys=True) + "\n")


def rows(seconds: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Each scenario with its steps, the longest first."""
    found = sorted(
        ((name, said) for name, said in seconds.items() if said["steps"]), key=lambda each: -each[1]["seconds"]
    )
    return [
        [name.removeprefix("scenario "), f"{said['seconds']:.0f}"]
        + [f"{said['steps'][step]:.0f}" if step in said["steps"] else "" for step in STEPS]
        for name, said in found
    ]


def table(seconds: Mapping[str, Mapping[str, Any]]) -> str:
    """The same for a document."""
    lines = [["scenario", "seconds", *STEPS], ["---", *["---:"] * (1 + len(STEPS))], *rows(seconds)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def report(seconds: Mapping[str, Mapping[str, Any]]) -> str:
    """For a terminal: scenarios by step, and the slowest tests."""
    lines = [["", "seconds", *STEPS], *rows(seconds)]
    shown = [f"{line[0]:20}" + "".join(f"{word:>12}" for word in line[1:]) for line in lines]
    slowest = sorted(
        ((took, name, test) for name, said in seconds.items() for test, took in said["tests"].items()), reverse=True
    )
    return "\n".join([*shown, "", *[f"{took:7.1f} s  {name}: {test}" for took, name, test in slowest[:SLOWEST]]])


def main() -> None:
    if sys.argv[1:] == ["--keep"]:
        text = README.read_text()
        before, after = text.partition(BEGIN)[0], text.partition(END)[2]
        README.write_text(f"{before}{BEGIN}\n{table(read())}\n{END}{after}")
    else:
        print(report(read()))


if __name__ == "__main__":
    main()
