"""Gives every scenario's tests the machine under test; see shared/fixtures.py."""

from fixtures import machine, pytest_runtest_makereport

__all__ = ["machine", "pytest_runtest_makereport"]
