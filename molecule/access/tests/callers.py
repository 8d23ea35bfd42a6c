"""People who call the server: who they say they are, and what they get."""

import base64
import http.client
import json
import re
import urllib.parse
from dataclasses import dataclass

from fixtures import Machine

Route = tuple[str, str]  # method and path pattern, as the release has it

# What the parameters of a path mean, where their name alone does not say it; all else is looked up by its name.
PATHS = ("path", "artifact_path", "filename")


@dataclass
class Answer:
    """What came back.

    Attributes:
        status: of HTTP; 0 where the connection ended without an answer.
        body: as text.
        headers: by their names in small letters.
    """

    status: int
    body: str
    headers: dict[str, str]

    @property
    def json(self) -> dict:
        return json.loads(self.body)


class Caller:
    """Somebody with a connection to the server.

    Args:
        url: of the server.
        name, password: credentials; an empty name sends none.
    """

    def __init__(self, url: str, name: str = "", password: str = "") -> None:
        parts = urllib.parse.urlsplit(url)
        self.address = (parts.hostname, parts.port)
        credentials = base64.b64encode(f"{name}:{password}".encode()).decode()
        self.authorization = {"Authorization": f"Basic {credentials}"} if name else {}
        self.connection = http.client.HTTPConnection(*self.address, timeout=60)

    def call(self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None) -> Answer:
        """One request; a body that is not text is sent as JSON."""
        sent = body if body is None or isinstance(body, str | bytes) else json.dumps(body)
        given = {"Content-Type": "application/json", **self.authorization, **(headers or {})}
        for attempt in (1, 2):
            try:
                self.connection.request(method, path, sent, given)
                response = self.connection.getresponse()
                content = response.read()
            except (http.client.HTTPException, OSError):  # the server may close a connection that it has answered on
                self.connection.close()
                if attempt == 2:
                    raise
            else:
                named = {name.lower(): value for name, value in response.getheaders()}
                return Answer(response.status, content.decode("utf-8", "replace"), named)
        raise AssertionError("not reached")

    def post(self, path: str, /, **body: object) -> Answer:
        return self.call("POST", path, body)

    def get(self, path: str, /, **query: object) -> Answer:
        return self.call("GET", f"{path}?{urllib.parse.urlencode(query, doseq=True)}" if query else path)


@dataclass
class Others:
    """One thing of each kind that MLflow keeps, made by the admin.

    Attributes:
        names: what requests name them by, with every name that some route has for it.
        content: a word that is in all of them and in no request.
    """

    names: dict[str, object]
    content: str


def admin_password(machine: Machine) -> str:
    return machine.run("cat /etc/mlflow/secrets/admin-password")


def concrete(path: str, names: dict[str, object]) -> str:
    """A route's path with its parameters filled in."""
    plain = {**names, **dict.fromkeys(PATHS, names["artifact_path"])}

    def fill(found: re.Match) -> str:
        name = found[1].split(":")[-1] if found[0][0] == "<" else found[1].split(":")[0]
        return urllib.parse.quote(str(plain.get(name, "1")), safe="/")

    return re.sub(r"[<{]([^>}]+)[>}]", fill, path)


def ask(caller: Caller, route: Route, names: dict[str, object]) -> Answer:
    """Call a route with every parameter that any route takes: in the query or, where there is one, in the body."""
    method, path = route
    path = concrete(path, names)
    if method in ("GET", "HEAD", "OPTIONS"):
        return caller.call(method, f"{path}?{urllib.parse.urlencode(names, doseq=True)}")
    return caller.call(method, path, names)
