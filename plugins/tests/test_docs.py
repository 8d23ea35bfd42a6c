"""What the documents promise their reader: a short README, and pages that begin with what to type."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import site_pages
import yaml

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
COMMANDS = re.compile(r"^```(?:shell|console)\n(.+?)^```$", re.MULTILINE | re.DOTALL)


class Loader(yaml.SafeLoader):
    """Of a configuration that names Python objects, which nothing here needs."""


Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, name, node: None)


def in_nav(entry: object) -> Iterator[str]:
    """The pages of the navigation, by their paths."""
    if isinstance(entry, str):
        yield entry
    else:
        for deeper in entry.values() if isinstance(entry, dict) else entry:
            yield from in_nav(deeper)


def test_readme_has_at_most_150_lines():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_each_page_is_in_the_navigation_once():
    configuration = yaml.load((ROOT / ".mkdocs.yml").read_text(), Loader)
    named = [page for page in in_nav(configuration["nav"]) if not page.startswith(site_pages.REST)]
    assert sorted(named) == [page.relative_to(ROOT / "docs").as_posix() for page in PAGES]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_begins_with_commands(page):
    beginning = re.split(r"^## ", page.read_text(), maxsplit=1, flags=re.MULTILINE)[0]
    assert beginning.startswith("# ")
    first = re.search(r"^```.*", beginning, re.MULTILINE)
    commands = COMMANDS.search(beginning)
    assert first, "no block of code before the second heading"
    assert commands, "no block of commands before the second heading"
    assert commands.start() == first.start()


def test_readme_leads_to_each_page():
    linked = set(re.findall(r"\]\((docs/[^)#]+)", (ROOT / "README.md").read_text()))
    assert linked == {page.relative_to(ROOT).as_posix() for page in PAGES} - {"docs/index.md"}


@pytest.mark.parametrize(
    ("page", "written", "expected"),
    [
        ("index.md", "[a](install.md#b)", "[a](install.md#b)"),
        ("index.md", "[a](../roles/mlflow/README.md#b)", "[a](repository/roles/mlflow/README.md#b)"),
        ("index.md", "![a](../.github/ui.png)", "![a](repository/.github/ui.png)"),
        ("repository/inventories/gce/README.md", "[a](../../docs/front.md)", "[a](../../../front.md)"),
        ("repository/README.md", "[a](docs/front.md), [b](LICENSE)", "[a](../front.md), [b](LICENSE)"),
        ("index.md", "[a](#b) [c](https://example.com/d.md)", "[a](#b) [c](https://example.com/d.md)"),
    ],
)
def test_link_leads_on_the_site_where_it_leads_in_the_repository(page, written, expected):
    assert site_pages.relinked(written, page) == expected


def test_site_has_nothing_that_an_operator_brought(tmp_path, monkeypatch):
    for name in ("README.md", "files/README.md", "files/grafana-mlflow.json", "files/key.json", "files/notes.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    monkeypatch.setattr(site_pages, "ROOT", tmp_path)
    assert site_pages.shown() == ["README.md", "files/README.md", "files/grafana-mlflow.json"]
