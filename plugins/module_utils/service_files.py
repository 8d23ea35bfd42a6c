# Copyright the authors of this repository
# SPDX-License-Identifier: Apache-2.0
"""The program on the machine, as a release carries it. Standard library only, for tests that need no Ansible, too."""

from __future__ import annotations

import tomllib
from pathlib import Path


def service_files(role_path: Path) -> dict[str, str]:
    """The program on the machine, mlflow_service, as a release carries it: texts by their path below site-packages.

    Its metadata is made from its pyproject.toml, as an installer would; MLflow finds it by the entry points in there.
    Source: https://packaging.python.org/en/latest/specifications/entry-points/#file-format.
    """
    project = role_path / "files/mlflow_service"
    described = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    metadata = f"{described['name'].replace('-', '_')}-{described['version']}.dist-info"
    groups = described["entry-points"].items()
    points = (f"[{group}]\n" + "".join(f"{name} = {of}\n" for name, of in found.items()) for group, found in groups)
    files = sorted(
        path
        for path in (project / "src").rglob("*")
        if path.is_file() and path.parent.name != "__pycache__" and not path.name.startswith(".")
    )
    return {
        f"{metadata}/METADATA": f"Metadata-Version: 2.1\nName: {described['name']}\nVersion: {described['version']}\n"
        f"Summary: {described['description']}",
        f"{metadata}/entry_points.txt": "\n".join(points).rstrip(),
        **{str(path.relative_to(project / "src")): path.read_text(encoding="utf-8").rstrip() for path in files},
    }
