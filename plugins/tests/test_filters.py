"""Filters: what systemd, a shell and MLflow read is what was given."""

import fnmatch
import subprocess

import mlflow as filters
import pytest

ODD = [
    "plain",
    "p@ss:w/rd#%?&x",
    'with "quotes" and $HOME and `ls`',
    "back\\slash\\",
    " spaces ",
    "ñ'",
    "two\nlines",
    "",
]


@pytest.mark.parametrize("value", ODD)
def test_shell_reads_an_environment_file_letter_by_letter(value, tmp_path):
    file = tmp_path / "a.env"
    file.write_text(filters.env_line(value, "NAME") + "\n")
    read = subprocess.run(["sh", "-c", f'. {file}; printf %s "$NAME"'], capture_output=True, text=True, check=True)
    assert read.stdout == value


def test_numbers_and_booleans_are_written_as_text():
    assert filters.env_line(5001, "MLFLOW_PORT") == 'MLFLOW_PORT="5001"'


def test_word_of_a_command_line_is_quoted_for_systemd():
    assert filters.systemd_argument('50% of $HOME "x" \\') == '"50%% of $$HOME \\"x\\" \\\\"'


def accepted(patterns, host):
    """MLflow's own comparison, from mlflow/server/security_utils.py."""
    return any(fnmatch.fnmatch(host, pattern) if "*" in pattern else host == pattern for pattern in patterns)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "[fd00::5]", "mlflow-service", "a.example.com"])
def test_name_is_accepted_with_and_without_a_port(host):
    patterns = filters.allowed_hosts(
        ["localhost", "127.0.0.1", "[::1]", "[fd00::5]", "mlflow-service", "*.example.com"]
    )
    assert accepted(patterns, host)
    assert accepted(patterns, f"{host}:5001")


@pytest.mark.parametrize("host", ["evil.com", "localhost.evil.com", "xlocalhost", ":5001", "::1"])
def test_other_names_are_not_accepted(host):
    assert not accepted(filters.allowed_hosts(["localhost", "127.0.0.1", "[::1]"]), host)


def test_name_with_a_port_is_accepted_at_that_port_only():
    patterns = filters.allowed_hosts(["a.example.com:8443"])
    assert patterns == ["a.example.com:8443"]


def test_every_name_stands_once():
    assert filters.allowed_hosts(["*", "a", "a"]) == ["*", "a", "a:*"]
