"""What `make test`, `make check` and the lanes of a CI run."""

import pytest
import suite


def test_all_is_checked_without_arguments():
    assert suite.read([]) == (list(suite.CHECKS), suite.scenarios())
    assert "unit tests" in suite.CHECKS


def test_check_is_lint_and_unit_tests():
    assert suite.read(["--check"]) == (list(suite.CHECKS), [])
    assert suite.read(["--lint"]) == ([name for name in suite.CHECKS if name != "unit tests"], [])


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
