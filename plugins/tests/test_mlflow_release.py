"""mlflow_release: what it says when a build fails. The scenarios build for real."""

import re
import subprocess
import sys

import mlflow_release
import pytest

# What uv and pip printed when it happened.
SAID = {
    "does not have the hash": "error: Failed to download `click==8.5.1`\n  Caused by: Hash mismatch for `click==8.5.1`",
    "disk is full": "error: Failed to install: a.whl\n  Caused by: failed to copy file: No space left on device (os error 28)",
    "not trusted": "error: Failed to fetch\n  Caused by: invalid peer certificate: UnknownIssuer",
    "can't be reached": "error: Failed to fetch\n  Caused by: error sending request\n  Caused by: dns error",
    "wheel is damaged": "  x No solution found\n  Because alembic==1.20.1 has an invalid package format",
    "not in the wheelhouse": "  x No solution found: Because boto3 was not found in the provided package locations",
    "not to be had": "  x No solution found when resolving dependencies: there is no version of mlflow==9.9.9",
}


@pytest.mark.parametrize("sentence, said", SAID.items())
def test_reason_is_a_sentence_that_helps(sentence, said):
    reason = next(text for pattern, text in mlflow_release.REASONS if re.search(pattern, said))
    assert sentence in reason


def arguments(tmp_path, **others):
    given = {"name": "1-a", "version": "1", "install_dir": str(tmp_path), "python": "/usr/bin/python3"}
    return {**given, "lock": "", "uv_lock": "", "service_files": {}, **others}


def test_release_that_is_there_is_not_built_again(module, tmp_path):
    (tmp_path / "releases/1-a").mkdir(parents=True)
    result = module("mlflow_release", **arguments(tmp_path))
    assert result["changed"] is False
    assert result["path"] == str(tmp_path / "releases/1-a")


def test_check_mode_tells_and_builds_nothing(module, tmp_path):
    assert module("mlflow_release", check=True, **arguments(tmp_path))["changed"] is True
    assert list(tmp_path.iterdir()) == []


def test_interpreter_that_does_not_start_is_one_sentence_and_leaves_nothing(module, tmp_path):
    result = module("mlflow_release", **arguments(tmp_path, python="/usr/bin/false"))
    assert result["failed"]
    assert result["msg"].startswith("The release 1-a was not built (making room for uv)")
    assert list((tmp_path / "releases").iterdir()) == []


def test_login_in_an_address_is_not_quoted(module, tmp_path):
    python = tmp_path / "python"
    python.write_text(
        "#!/bin/sh\necho 'no answer from https://name:pass%40word@pypi.example.com/simple/uv/' >&2; exit 1\n"
    )
    python.chmod(0o755)
    result = module("mlflow_release", **arguments(tmp_path, python=str(python)))
    assert result["said"] == "no answer from https://pypi.example.com/simple/uv/"


def test_all_but_tests_is_compiled_and_what_is_not_python_passed_over(tmp_path):
    for name in ("package/__init__.py", "package/tests/test_it.py"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("x = 1\n")
    (tmp_path / "template.py").write_text("print '{{ it }}'\n")
    subprocess.run([sys.executable, "-c", mlflow_release.COMPILE, str(tmp_path)], check=True)
    (compiled,) = tmp_path.rglob("*.pyc")
    assert compiled.parent == tmp_path / "package" / "__pycache__"


def test_failure_to_write_what_was_compiled_is_a_failure(tmp_path):
    (tmp_path / "module.py").write_text("x = 1\n")
    (tmp_path / "__pycache__").write_text("a file where a folder has to be")
    done = subprocess.run([sys.executable, "-c", mlflow_release.COMPILE, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode != 0
    assert "__pycache__" in done.stderr
