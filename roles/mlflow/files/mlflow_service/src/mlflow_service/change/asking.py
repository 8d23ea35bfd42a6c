"""What the wanted release says of the data, asked as the service's user, and believed as far as it can be so."""

import grp
import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mlflow_service.change.model import ChangeError, Request
from mlflow_service.system import acting

REVISION = re.compile(r"[\w+]{0,200}", re.ASCII)  # of a schema, or of two; see schema.together


def as_service(
    request: Request, environment: Mapping[str, str], *command: str, seconds: float = acting.QUESTION_SECONDS
) -> str:
    """What a module of the wanted release prints, run as the service's user with the server's settings."""
    interpreter = Path(sys.prefix).resolve().with_name(request.release) / "bin" / "python"
    who = acting.identity(request.user, grp.getgrnam(request.group).gr_gid)
    python = acting.python("-m", *command, interpreter=str(interpreter))
    try:
        done = acting.run(python, who, environment, home=request.home, seconds=seconds)
    except acting.ActingError as error:
        raise ChangeError(str(error)) from None
    if done.status != 0:
        raise ChangeError(f"{' '.join(command)} failed: {done.last_words}")
    return done.output


def said_by_service(text: str, what: str, fits: Callable[[Any], bool]) -> Any:
    """The JSON in the last line of what ran as the service; raises ChangeError where it does not fit."""
    try:
        said = json.loads(text.splitlines()[-1])
    except (IndexError, ValueError, RecursionError):
        said = None
    if said is None or not fits(said):
        raise ChangeError(f"{what} could not be read: what answered is none of ours")
    return said


def is_revision(value: object) -> bool:
    return isinstance(value, str) and REVISION.fullmatch(value) is not None


def schema(request: Request, environment: Mapping[str, str], command: str = "show") -> dict[str, Any]:
    """The database's schema after the command; see schema.py."""

    def fits(said: Any) -> bool:
        words = ("head", "revision", "before")
        return (
            isinstance(said, dict)
            and isinstance(said.get("known"), bool)
            and {"head", "revision"} <= said.keys()
            and all(is_revision(said.get(word, "")) for word in words)
        )

    seconds = acting.DATA_SECONDS if command == "migrate" else acting.QUESTION_SECONDS
    said = as_service(request, environment, "mlflow_service.schema", command, seconds=seconds)
    return said_by_service(said, "the database's schema", fits)


def known_revisions(request: Request, environment: Mapping[str, str]) -> list[str]:
    """Schema revisions that the wanted release can start from."""
    said = as_service(request, environment, "mlflow_service.schema", "revisions")
    return said_by_service(
        said, "the release's schemas", lambda found: isinstance(found, list) and all(map(is_revision, found))
    )


def given_since(request: Request, environment: Mapping[str, str], milliseconds: int) -> dict[str, int]:
    """What the store has been given since a moment, by kind; see since.py."""

    def fits(said: Any) -> bool:
        return isinstance(said, dict) and all(
            re.fullmatch("[a-z ]{1,40}", kind) and type(count) is int for kind, count in said.items()
        )

    said = as_service(request, environment, "mlflow_service.since", str(milliseconds))
    return said_by_service(said, "what the store was given", fits)
