"""The check that every setting has a default and a description, and that README tables are current."""

import documents
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
