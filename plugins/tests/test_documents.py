"""The check that every setting has a default and a description, and that README tables are current."""

import ast

import documents
import promises
import suite
from ansible_collections.mlops.mlflow.plugins.module_utils.defaults import plain

SPECIFICATION = {"argument_specs": {"main": {"options": {"a_port": {"type": "int", "default": 1, "description": "x"}}}}}


def test_settings_that_agree_are_accepted():
    assert documents.differences("a", SPECIFICATION, {"a_port": 1}) == []


def test_setting_without_default_is_found():
    assert documents.differences("a", SPECIFICATION, {}) == ["a: a_port is specified, but has no default."]


def test_setting_without_specification_is_found():
    found = documents.differences("a", SPECIFICATION, {"a_port": 1, "a_host": ""})
    assert found == ["a: a_host has a default, but no argument specification."]


def test_another_default_is_found():
    found = documents.differences("a", SPECIFICATION, {"a_port": 2})
    assert found == ["a: a_port has another default in its argument specification."]


def test_markup_becomes_markdown():
    assert documents.markdown("C(0) takes O(a_port) | more") == "`0` takes `a_port` \\| more"


def test_default_that_follows_from_other_settings_is_not_specified():
    specification = {"argument_specs": {"main": {"options": {"a_flag": {"type": "bool", "description": "x"}}}}}
    assert documents.differences("a", specification, {"a_flag": plain("a_flag", "{{ __a_holds_data }}")}) == []


def test_promise_is_what_a_tests_name_says():
    (test,) = ast.parse("def test_client_can_not_be_refused_by_a_restart(machine): ...").body
    assert promises.promise(test) == "Client cannot be refused by a restart"


def test_page_of_promises_has_every_scenario_with_its_tests():
    page = promises.page()
    assert {
        name for name, *_ in promises.SCENARIOS.findall((documents.ROOT / "molecule" / "README.md").read_text())
    } == {*suite.scenarios()}
    for path in documents.ROOT.glob("molecule/*/tests/test_*.py"):
        assert f"`{path.relative_to(documents.ROOT)}`" in page
    assert "| Two runs at once build one release | `test_two_runs_at_once_build_one_release` |" in page
