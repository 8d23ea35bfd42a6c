# Copyright the authors of this repository
# SPDX-License-Identifier: Apache-2.0
"""Filters that read the results of tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping


def why_failed(result: Mapping, otherwise: str = "it does not say why") -> str:
    """What a failed task says of its failure: what its command printed, else the messages of a loop, else its own.

    Args:
        result: as ``ansible_failed_result`` has it in a ``rescue``.
        otherwise: what to say where it says nothing.
    """
    printed = " ".join(str(result.get(stream) or "") for stream in ("stderr", "stdout")).strip()
    looped = " ".join(str(each["msg"]) for each in result.get("results") or [] if each.get("msg"))
    return printed or looped or str(result.get("msg") or otherwise)


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable]:
        return {"why_failed": why_failed}
