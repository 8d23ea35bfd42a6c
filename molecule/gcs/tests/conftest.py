"""The Google beside the machine under test; prepare.yml has started it."""

import pytest
from fixtures import Machine
from google_cloud import Google


@pytest.fixture
def google(machine: Machine) -> Google:
    """Google, with no request remembered."""
    google = Google(machine.name)
    google.forget_requests()
    return google
