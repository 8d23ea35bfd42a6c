"""Every Python that a role starts on a machine imports nothing from a folder that somebody else may be able to write.

``python -I`` leaves out the working folder, which ``-m``, ``-c`` and ``-`` would put first, the user's own packages,
and ``PYTHON*`` variables. This reads every place that starts one.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXTS = [
    path
    for pattern in (
        "roles/*/tasks/*",
        "roles/*/vars/*",
        "roles/*/templates/*",
        "roles/*/handlers/*",
        "playbooks/**/*.yml",
    )
    for path in ROOT.glob(pattern)
]
PROGRAMS = [
    path
    for pattern in ("roles/*/files/**/*.py", "plugins/modules/*.py", "plugins/module_utils/*.py", "plugins/lookup/*.py")
    for path in ROOT.glob(pattern)
]
# A Python and its first option, as a command line or as a list has them
STARTED = re.compile(
    r"""(?:bin/python3?|\bpython3|__mlflow_python_path \}\})["']?[ \t]*\]?"""
    r"""(?:[ \t]*\n\s*-\s+["']?|(?:[ \t+'"\[]|,\s*)+)(-\w*)"""
)
OPTIONS = {"-m", "-c", "-"}
SAFE = {"'-I'", "*SAFE_PATH"}  # SAFE_PATH of launch.py is for uvicorn's workers, which PYTHON* variables are meant for


def started_in_text(text: str) -> Iterator[str]:
    """The first option of each Python that a text starts, without comments."""
    text = re.sub(r"(?m)^\s*#(?!!).*$|\{#.*?#\}", "", text)
    return (found[1] for found in STARTED.finditer(text))


def started_in_program(source: str) -> Iterator[str]:
    """What stands behind the interpreter in each list or call that starts one by an option of `OPTIONS`, as source."""
    for node in ast.walk(ast.parse(source)):
        words = node.elts if isinstance(node, ast.List | ast.Tuple) else []
        options = [word.value for word in words if isinstance(word, ast.Constant)]
        first = ast.unparse(words[0]) if words else ""
        if OPTIONS & set(options) and re.search(r"python|executable|interpreter|^path$", first):
            yield ast.unparse(words[1])


def test_texts_start_python_isolated():
    found = [(path, option) for path in TEXTS if path.is_file() for option in started_in_text(path.read_text())]
    assert len(found) > 10
    assert [(str(path.relative_to(ROOT)), option) for path, option in found if option != "-I"] == []


def test_programs_start_python_isolated():
    found = [(path, word) for path in PROGRAMS for word in started_in_program(path.read_text())]
    assert len(found) > 4
    assert [(str(path.relative_to(ROOT)), word) for path, word in found if word not in SAFE] == []


@pytest.mark.parametrize(
    "text, options",
    [
        ("ExecStart=/opt/current/bin/python -m x", ["-m"]),
        ("argv: [python3, -c, code]", ["-c"]),
        ('argv: ["{{ a }}/bin/python", -I, -m, x]', ["-I"]),
        ("{{ [dir ~ '/bin/python', '-m', 'x'] }}", ["-m"]),
        ("argv:\n  - python3\n  - -I\n  - '-'", ["-I"]),
        ('argv:\n  - python3\n  - "-"', ["-"]),
        ("# run python3 -m venv", []),
        ("install python3-venv", []),
    ],
)
def test_a_start_is_found_in_each_form(text, options):
    assert list(started_in_text(text)) == options


@pytest.mark.parametrize(
    "source, words",
    [
        ("run([sys.executable, '-m', 'x'])", ["'-m'"]),
        ("run([python, *safe, '-c', 'x'])", ["*safe"]),
        ("run([os.path.join(a, 'bin', 'python'), '-I', '-m', 'pip'])", ["'-I'"]),
        ("run(['tar', '-c', 'x'])", []),
    ],
)
def test_a_start_is_found_in_a_program(source, words):
    assert list(started_in_program(source)) == words


def test_a_unit_of_root_does_not_stand_in_a_folder_of_the_service():
    """What it starts by itself, such as systemctl, has its working folder, too."""
    for path in ROOT.glob("roles/*/templates/*.service.j2"):
        text = path.read_text()
        assert "WorkingDirectory=" not in text or "User=" in text, path
