"""The page docs/promises.md: what users are promised, and the test that fails where a promise is broken.

A test's name states its promise, and so the table is made of names; see `page`. documents.py writes it, and its
check fails where a test was added, renamed or taken away since.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCENARIOS = re.compile(r"^\| `(\w+)` \| (.+?) \| (.+?) \|$", re.MULTILINE)  # a row of the table in molecule/README.md
HEAD = """\
# Promises and their tests

<!-- Written by `python molecule/shared/documents.py` from the names of the tests. -->
```shell
make check                   # all that need no machine, in minutes
make test SCENARIO=failure   # those of one scenario
make test                    # all
```

Each line is a promise, and the test that fails where it is broken. A promise is proven once, at the cheapest place that
shows it.
"""
WITHOUT_MACHINES = {
    "The program on the machine": ("roles/mlflow/files/mlflow_service/tests", "with a release's packages, no machine"),
    "Rules, modules and the program's parts": ("plugins/tests", "in milliseconds"),
}


def promise(test: ast.FunctionDef) -> str:
    """What a test promises, as its name says it."""
    words = test.name.removeprefix("test_").replace("can_not", "cannot").replace("_", " ")
    return words[0].upper() + words[1:]


def tests(folder: Path) -> Iterator[tuple[Path, list[ast.FunctionDef]]]:
    """The tests of each file in a folder that has some."""
    for path in sorted(folder.glob("test_*.py")):
        found = [
            node
            for node in ast.parse(path.read_text(encoding="utf-8")).body
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        ]
        if found:
            yield path, found


def table(folder: Path) -> list[str]:
    """The promises that are proven in a folder."""
    lines = []
    for path, found in tests(folder):
        lines += ["", f"`{path.relative_to(ROOT)}`", "", "| promise | test |", "|---|---|"]
        lines += [f"| {promise(test)} | `{test.name}` |" for test in found]
    return lines


def page() -> str:
    """All promises: by scenario, as molecule/README.md lists them, and then those that need no machine."""
    lines = [HEAD, "## On machines"]
    for name, _, proves in SCENARIOS.findall((ROOT / "molecule" / "README.md").read_text(encoding="utf-8")):
        lines += [
            "",
            f"### {name}",
            "",
            f"{proves[0].upper()}{proves[1:]}.",
            *table(ROOT / "molecule" / name / "tests"),
        ]
    lines += ["", "## Without a machine"]
    for title, (folder, how) in WITHOUT_MACHINES.items():
        lines += ["", f"### {title}", "", f"{how[0].upper()}{how[1:]}.", *table(ROOT / folder)]
    return "\n".join(lines) + "\n"
