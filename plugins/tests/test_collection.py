"""What galaxy.yml says is what the tree is."""

from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
GALAXY = yaml.safe_load((ROOT / "galaxy.yml").read_text())


def test_collection_needs_what_a_clone_needs():
    wanted = yaml.safe_load((ROOT / "requirements.yml").read_text())["collections"]
    assert GALAXY["dependencies"] == {each["name"]: each["version"] for each in wanted}


def test_changelog_has_the_version():
    assert GALAXY["version"] in yaml.safe_load((ROOT / "changelogs" / "changelog.yaml").read_text())["releases"]
