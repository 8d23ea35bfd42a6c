# Copyright the authors of this repository
# SPDX-License-Identifier: Apache-2.0
"""Settings as Ansible has them: from the command line, a number or a boolean is text.

The rules of a role stand in a module of its own beside this one, each as a function that yields a sentence for whatever
is wrong, and nothing where all is right. A sentence says what was found, what is needed, and which setting changes it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

TRUE = ("true", "yes", "on", "1")  # what Ansible's filter `bool`, by which tasks go, takes for true
PORT = (1, 65535, "a TCP port is a number from 1 to 65535")
SQL_NAME = r"[a-z_][a-z0-9_]{0,62}"  # of a database or a user that needs no quotes in SQL
LISTEN_ADDRESS = r"\*|[A-Za-z0-9.:%_-]+"
IMAGINABLE = 10**15  # more than any count, size or time that a setting can mean


def number(value: object) -> int:
    """A whole number, or 0 for what is none; as Jinja's filter ``int``."""
    try:
        return int(value) if isinstance(value, bool) else int(str(value))
    except ValueError:
        pass
    try:
        return int(float(str(value)))
    except (OverflowError, ValueError):
        return 0


def is_true(value: object) -> bool:
    """Whether Ansible takes a value from an inventory or the command line as true."""
    return str(value).lower() in TRUE


def first_wrong(values: Iterable, pattern: str) -> str | None:
    """The first of the values, as text, that is not wholly what the pattern says; None where all are."""
    return next((str(value) for value in values if not re.fullmatch(pattern, str(value))), None)


class Settings(dict):
    """A role's settings by their names.

    Numbers and booleans are read by `number` and `flag`, whatever form they came in.
    """

    def __init__(self, given: Mapping, role_path: str) -> None:
        """Take the settings by their names, and the role's folder."""
        super().__init__(given)
        self.role_path = Path(role_path)

    def number(self, name: str) -> int:
        return number(self[name])

    def flag(self, name: str) -> bool:
        return is_true(self[name])

    def text(self, name: str) -> str:
        return "" if self[name] is None else str(self[name])

    def is_file(self, name: str) -> bool:
        """Whether the setting names a file on the control node."""
        return bool(self.text(name)) and Path(self.text(name)).is_file()

    def out_of_range(self, ranges: Mapping[str, tuple[int, int, str]]) -> Iterator[str]:
        """A sentence for each setting outside its range: the least, the most, and what to take instead."""
        for name, (least, most, advice) in ranges.items():
            if not least <= self.number(name) <= most:
                yield f"{name} is {self[name]}; {advice}."


def pair(settings: Settings, one: str, other: str, advice: str) -> Iterator[str]:
    """A sentence where only one of two settings is there that need each other, such as a certificate and its key."""
    if bool(settings.text(one)) != bool(settings.text(other)):
        yield f"{one} and {other} belong together; {advice}."


def unfit_system(system: Mapping, supervised: str) -> Iterator[str]:
    """What every role needs of a machine (see host.py): root, and systemd, which supervises what it provisions."""
    if not system["root"]:
        yield "The role needs root on the machine; set become to true in the play."
    if not system["systemd"]:
        yield f"This machine does not run systemd, which supervises {supervised}; take one that was booted with it."


Rule = Callable[[Settings], Iterator[str]]


def texts_for_lists(settings: Settings, examples: Mapping[str, str]) -> list[str]:
    """Sentences about settings that are text where a list or a dictionary is meant.

    Args:
        settings: all of the role.
        examples: of each that is a list or a dictionary, how it is written as JSON.
    """
    kinds = {
        name: "a list or a dictionary" if example.startswith("{") else "a list" for name, example in examples.items()
    }
    return [
        f"{name} is text, not {kinds[name]}; "
        f"on the command line write it as JSON, such as -e '{{\"{name}\": {example}}}'."
        for name, example in examples.items()
        if isinstance(settings[name], str)
    ]


def wrong(settings: Settings, rules: Iterable[Rule], examples: Mapping[str, str]) -> list[str]:
    """All that is wrong with a role's settings; where a list is text, only that, since no rule could read it."""
    return texts_for_lists(settings, examples) or [sentence for rule in rules for sentence in rule(settings)]
