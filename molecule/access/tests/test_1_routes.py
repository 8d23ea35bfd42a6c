"""Every route of the installed release, called by people who should get nothing."""

import hashlib
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from callers import Answer, Caller, Others, Route, admin_password, ask, concrete
from fixtures import Machine

AT_ONCE = 4
# Open to everybody. The rest wants a name and a password.
OPEN = re.compile(r"/(health$|static-files/)")
# What a user without any permission is answered with a 2xx, and why that is right.
ALLOWED = {
    r"GET /$": "the user interface, which everybody can download elsewhere",
    r"GET /health$": "says that the server lives",
    r"GET /version$": "the version, to who has an account",
    r"GET .*/server-info$": "how the server is configured, to who has an account",
    r"(GET|POST) .*/(experiments|registered-models|model-versions|runs|logged-models|mcp-servers|jobs)(/search|/endpoints)?$":
        "a list of what the caller may read: here of nothing but what the caller has made",
    r"POST .*/experiments/create$": "whoever has an account may make experiments, and manages those",
    r"POST .*/registered-models/create$": "the same with models",
    r"GET .*/gateway/(endpoints|model-definitions|secrets|budgets)/(list|windows)$": "a list of what the caller may use",
    r"GET /gateway/mlflow/v1/models$": "the same",
    r"(GET|POST) .*/gateway-proxy$": "the same, of the older gateway",
    r"GET .*/gateway/secrets/config$": "whether the gateway can keep secrets",
    r"GET .*/gateway/supported-(providers|models)$|GET .*/gateway/provider-config$": "which providers MLflow knows",
    r"GET .*/users/current(/permissions)?$": "the caller",
    r"GET .*/users/list$": "the users' names, so that one can share with them; roles only of the caller",
    r"GET .*/assistant/(config|providers)$": "which assistants MLflow knows; they work for the machine itself only",
    r"(GET|POST) .*/ui-telemetry$": "that telemetry is off",
    r"(GET|POST) /graphql$": "an answer without what the caller may not read",
}  # fmt: skip
# Not called as a user. MLflow lets every account do so; it takes long, and tells or changes nothing of others.
NOT_CALLED = {
    "/ajax-api/3.0/mlflow/gateway/supported-models": "fetches a list of models from the Internet",
    "/ajax-api/3.0/mlflow/demo/generate": "makes the experiment of MLflow's demonstration",
}
HASTY = "hasty"
PASSWORD_OF_HASTY = "the password of hasty"
ADD_ADMIN = """
import sqlite3, sys
with sqlite3.connect("/var/lib/mlflow/auth.db", 60) as database:
    database.execute("INSERT INTO users (username, password_hash, is_admin) VALUES (?, ?, 1)", sys.argv[1:])
"""
REMOVE = """
import sqlite3, sys
with sqlite3.connect("/var/lib/mlflow/auth.db", 60) as database:
    database.execute("DELETE FROM users WHERE username = ?", sys.argv[1:])
"""
WHAT_OTHERS_HAVE = [
    ("experiments/get", "experiment_id"),
    ("runs/get", "run_id"),
    ("registered-models/get", "name"),
    ("model-versions/search", "max_results"),
]


def statuses(make_caller: Callable[[], Caller], routes: list[Route], names: dict[str, object]) -> dict[Route, Answer]:
    """What each route answers, a few at once."""
    share = [routes[number::AT_ONCE] for number in range(AT_ONCE)]

    def go_through(some: list[Route]) -> list[tuple[Route, Answer]]:
        caller = make_caller()
        return [(route, ask(caller, route, names)) for route in some]

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(pair for pairs in pool.map(go_through, share) for pair in pairs)


def closed(routes: list[Route], names: dict[str, object]) -> list[Route]:
    return [route for route in routes if not OPEN.match(concrete(route[1], names))]


def test_route_tables_were_read(routes: list[Route]) -> None:
    """Without this, a release that lists its routes in another way would pass every test below."""
    assert len(routes) > 1000
    expected = ["/api/2.0/mlflow/runs/get", "/api/2.0/mlflow-artifacts/artifacts/{artifact_path:path}", "/v1/traces"]
    assert set(expected) <= {path for _, path in routes}


def test_nobody_is_answered_without_credentials(machine: Machine, routes: list[Route], others: Others) -> None:
    answers = statuses(lambda: Caller(machine.url), closed(routes, others.names), others.names)
    assert {route: answer.status for route, answer in answers.items() if answer.status != 401} == {}
    assert not [route for route, answer in answers.items() if others.content in answer.body]


@pytest.fixture
def hasty(machine: Machine) -> Iterator[str]:
    """Name of an admin whose password is hashed once: MLflow's own way takes long for each request, and is meant to."""
    digest = hashlib.pbkdf2_hmac("sha256", PASSWORD_OF_HASTY.encode(), b"salt", 1).hex()
    machine.host.check_output("python3 -c %s %s %s", ADD_ADMIN, HASTY, f"pbkdf2:sha256:1$salt${digest}")
    yield HASTY
    machine.host.check_output("python3 -c %s %s", REMOVE, HASTY)


def test_nobody_is_answered_with_a_wrong_password(
    machine: Machine, routes: list[Route], others: Others, hasty: str
) -> None:
    """By one method of each path."""
    assert Caller(machine.url, hasty, PASSWORD_OF_HASTY).get("/api/2.0/mlflow/users/current").status == 200
    called = [route for route in closed(routes, others.names) if route[0] not in ("HEAD", "OPTIONS")]
    called = list({path: (method, path) for method, path in called}.values())
    assert len(called) > 400
    answers = statuses(lambda: Caller(machine.url, hasty, "not the password"), called, others.names)
    assert {route: answer.status for route, answer in answers.items() if answer.status != 401} == {}
    assert Caller(machine.url, "admin", "not the password").get("/api/2.0/mlflow/users/current").status == 401


def test_only_health_and_the_interfaces_files_are_open(stranger: Caller) -> None:
    assert stranger.get("/health").status == 200
    for path in (
        "/static-files/",
        "/static-files/..%2f..%2f..%2fetc/passwd",
        "/health/../version",
        "/static-files/nothing.js",
    ):
        answer = stranger.get(path)
        assert answer.status == 404, (path, answer)
        assert "root:" not in answer.body


def snapshot(admin: Caller, others: Others) -> list[str]:
    """What the admin sees of what others have, and of who may what."""
    names = others.names
    seen = [admin.get(f"/api/2.0/mlflow/{path}", **{key: names[key]}).body for path, key in WHAT_OTHERS_HAVE]
    seen += [
        admin.get(f"/api/3.0/mlflow/traces/{names['trace_id']}").body,
        admin.get(f"/api/2.0/mlflow/logged-models/{names['model_id']}").body,
        admin.get(f"/api/3.0/mlflow/datasets/{names['dataset_id']}").body,
        admin.get(f"/api/2.0/mlflow-artifacts/artifacts/{names['artifact_path']}").body,
        admin.get("/api/3.0/mlflow/gateway/secrets/get", secret_id=names["secret_id"]).body,
        admin.get("/api/3.0/mlflow/roles/get", role_id=names["role_id"]).body,
        admin.get("/api/3.0/mlflow/roles/users/list", role_id=names["role_id"]).body,
    ]
    users = admin.get("/api/2.0/mlflow/users/list").json["users"]
    return [*seen, str(sorted((user["username"], user["is_admin"]) for user in users))]


def test_user_without_permission_reads_and_changes_nothing(
    machine: Machine, routes: list[Route], others: Others, admin: Caller
) -> None:
    before = snapshot(admin, others)
    assert sum(others.content in seen for seen in before) >= 8, before
    called = [route for route in routes if route[0] not in ("HEAD", "OPTIONS") and route[1] not in NOT_CALLED]
    called = [route for route in called if not OPEN.match(concrete(route[1], others.names))]
    answers = statuses(lambda: Caller(machine.url, "mallory", "the password of mallory"), called, others.names)
    told = [route for route, answer in answers.items() if others.content in answer.body]
    assert told == []
    unexpected = {
        route: (answer.status, answer.body[:200])
        for route, answer in answers.items()
        if answer.status < 300 and not any(re.match(pattern, " ".join(route)) for pattern in ALLOWED)
    }
    assert unexpected == {}
    assert snapshot(admin, others) == before


def test_the_same_requests_tell_the_admin_what_others_have(
    machine: Machine, routes: list[Route], others: Others, admin: Caller
) -> None:
    """So it is for want of permission that they tell the user nothing, and not because they ask for nothing."""
    reading = [route for route in routes if route[0] == "GET" or route[1].endswith(("/search", "/graphql"))]
    reading = [route for route in reading if route[1] not in NOT_CALLED]
    answers = statuses(lambda: Caller(machine.url, "admin", admin_password(machine)), reading, others.names)
    telling = {route for route, answer in answers.items() if others.content in answer.body}
    assert len(telling) >= 30, sorted(telling)


def test_user_with_a_permission_may_do_what_it_says_and_no_more(alice: Caller, others: Others) -> None:
    made = alice.post("/api/2.0/mlflow/runs/create", experiment_id="0")
    assert made.status == 200
    run = made.json["run"]["info"]["run_id"]
    assert alice.post("/api/2.0/mlflow/runs/log-metric", run_id=run, key="m", value=1, timestamp=0).status == 200
    assert alice.post("/api/2.0/mlflow/experiments/delete", experiment_id="0").status == 403
    elsewhere = alice.post("/api/2.0/mlflow/runs/create", experiment_id=others.names["experiment_id"])
    assert elsewhere.status == 403


@pytest.mark.parametrize("name", ["", "admin", "nobody"])
def test_empty_password_lets_nobody_in(machine: Machine, name: str) -> None:
    assert Caller(machine.url, name or " ", "").get("/api/2.0/mlflow/users/current").status == 401
