"""Every name of the old service has its row in docs/docker-compose.md, with the setting that it really gives."""

import re
from pathlib import Path

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import lookup_loader
from fixtures import ROOT
from old_service import NAMES

# Values that tell the names' kinds from each other; any other name takes a text.
VALUES = {
    "MLFLOW_TRACKING_PORT": ["5055"],
    "POSTGRES_PORT": ["5433"],
    "MLFLOW_HOST": ["10.0.0.5", "mlflow-service"],
    "GOOGLE_APPLICATION_CREDENTIALS": ["/app/key.json", "login.json"],
}


@pytest.fixture(scope="module")
def rows() -> dict[str, set[str]]:
    """The settings in the second column of the page's table, by the name in the first."""
    page = (ROOT / "docs" / "docker-compose.md").read_text()
    found = re.findall(r"^\| `([A-Z0-9_]+)` \|([^|]+)\|", page, re.MULTILINE)
    assert len({name for name, _ in found}) == len(found), "a name has two rows"
    return {name: set(re.findall(r"`(mlflow_\w+)", cell)) for name, cell in found}


def given_by(name: str, folder: Path) -> set[str]:
    """The settings that a `.env` with this name alone gives, whatever its value is."""
    (folder / "login.json").write_text('{"type": "authorized_user"}')
    lookup_loader.add_directory(str(ROOT / "plugins" / "lookup"))
    lookup = lookup_loader.get("mlflow_dotenv", loader=DataLoader(), templar=None)
    settings = set()
    for value in VALUES.get(name, ["value"]):
        (folder / ".env").write_text(f"{name}={value}\n")
        [found] = lookup.run([str(folder / ".env")], variables={})
        settings |= set(found["settings"])
    return settings


@pytest.mark.parametrize("name", NAMES)
def test_row_has_the_settings_that_the_name_gives(rows, tmp_path, name):
    given = given_by(name, tmp_path)
    assert given
    assert rows[name] == given


def test_no_row_is_about_anything_else(rows):
    assert set(rows) == set(NAMES)
