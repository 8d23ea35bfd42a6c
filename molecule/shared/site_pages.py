"""A hook of MkDocs: the repository's other documents as pages of the site, and links to them as on GitHub.

`roles/mlflow/README.md` becomes the page `repository/roles/mlflow/README.md`. A link between documents stands in
them as GitHub follows it, and is rewritten for the site; where it leads to no file, MkDocs says so.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DOCS, REST = "docs/", "repository/"
SHOWN = ["*.md", "LICENSE", ".github/*.png", "roles/*/README.md", "inventories/*/README.md"]
SHOWN += ["bench/README.md", "molecule/README.md", "files/README.md", "plugins/tests/refused/README.md"]
SHOWN += ["files/grafana-mlflow.json"]  # by name: what else is in files/ may be secret
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|[#/])([^)\s#]+)(?=[)#])")


def site_path(path: str) -> str:
    """Where a file of the repository is on the site, below MkDocs' docs_dir."""
    return path.removeprefix(DOCS) if path.startswith(DOCS) else REST + path


def repository_path(path: str) -> str:
    """The other way round."""
    return path.removeprefix(REST) if path.startswith(REST) else DOCS + path


def relinked(markdown: str, page: str) -> str:
    """A page's text with its links to files as they are on the site; `page` is where it is there."""

    def link(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(repository_path(page)), found[1]))
        return posixpath.relpath(site_path(target), posixpath.dirname(page) or ".")

    return LINK.sub(link, markdown)


def shown() -> list[str]:
    """Files outside docs/ that the site has."""
    found = {path for pattern in SHOWN for path in ROOT.glob(pattern)}
    return sorted(name for path in found if not (name := path.relative_to(ROOT).as_posix()).startswith(DOCS))


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File, InclusionLevel  # noqa: PLC0415 - tests do without it

    for name in shown():
        # MkDocs leaves out folders with a dot, such as .github, unless it is told; not_in_nav is for the others.
        inclusion = InclusionLevel.INCLUDED if name.startswith(".") else InclusionLevel.UNDEFINED
        files.append(File.generated(config, site_path(name), abs_src_path=str(ROOT / name), inclusion=inclusion))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    if page.file.src_uri == site_path("README.md"):
        page.meta["search"] = {"exclude": True}  # the other pages say it all
    return relinked(markdown, page.file.src_uri)
