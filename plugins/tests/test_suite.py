"""What `make test`, `make check` and the lanes of a CI run."""

import shlex

import pytest
import suite

TESTS = {"unit tests", "program's tests"}


def test_all_is_checked_without_arguments():
    assert suite.read([]) == (list(suite.CHECKS), suite.scenarios())
    assert set(suite.CHECKS) >= TESTS


def test_check_is_lint_and_the_tests_that_need_no_machine():
    assert suite.read(["--check"]) == (list(suite.CHECKS), [])
    assert suite.read(["--lint"]) == ([name for name in suite.CHECKS if name not in TESTS], [])


def test_named_scenario_is_run_alone():
    assert suite.read(["failure", "local"]) == ([], ["failure", "local"])


def test_lanes_share_the_scenarios_and_the_first_checks():
    lanes = [suite.read(["--lane", f"{number}/3"]) for number in (1, 2, 3)]
    assert sorted(name for _, names in lanes for name in names) == sorted(suite.scenarios())
    assert [bool(checks) for checks, _ in lanes] == [True, False, False]
    assert max(len(names) for _, names in lanes) - min(len(names) for _, names in lanes) <= 1


@pytest.mark.parametrize("arguments", [["no-such-scenario"], ["--lane", "4/3"], ["--lane", "0/3"], ["--lane", "x"]])
def test_what_there_is_not_is_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        suite.read(arguments)
    assert "error" in capsys.readouterr().err


def test_long_scenarios_exist():
    assert set(suite.LONG) <= set(suite.scenarios())


def test_reports_have_names_that_pytest_can_be_told():
    """It splits what it is told as a shell does."""
    for name in suite.CHECKS:
        assert shlex.split(f"--junitxml={suite.Check(name, []).report}") == [
            f"--junitxml={suite.Check(name, []).report}"
        ]
