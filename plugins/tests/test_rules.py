"""What a role refuses, and in which words: each case of refused/*.yml, and that every sentence of the rules has one."""

import ast
import importlib
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType, ModuleType

import pytest
import yaml
from ansible_collections.mlops.mlflow.plugins.module_utils import mlflow_installation, service_files
from ansible_collections.mlops.mlflow.plugins.module_utils.defaults import of_role
from ansible_collections.mlops.mlflow.plugins.module_utils.mlflow_settings import MlflowSettings

ROOT = Path(__file__).resolve().parents[2]
TABLES = Path(__file__).with_name("refused")
ROLES = sorted(path.stem for path in TABLES.glob("*.yml") if path.stem != "machines")

# What has its default from other settings or a playbook, as it is on an ordinary machine.
JOINED = {
    "haproxy": {
        "haproxy_names": ["mlflow.test"],
        "haproxy_servers": [{"name": "a", "address": "10.77.0.2", "port": 5001}],
        "haproxy_path_prefix": "",
        "haproxy_virtual_peers": [],
    },
    "mlflow": {
        "mlflow_servers": ["vm"],
        "mlflow_backup_enabled": True,
        "mlflow_check_metrics_dir": "",
        "mlflow_check_certificates": [],
    },
    "monitoring": {
        "monitoring_parts": ["prometheus"],
        "monitoring_mlflow_targets": ["127.0.0.1:5001"],
        "monitoring_mlflow_token_file": "",
        "monitoring_postgres_source": "user=prometheus host=/var/run/postgresql",
    },
    "pgbouncer": {
        "pgbouncer_databases": [{"name": "mlflow", "host": "10.77.0.5"}],
        "pgbouncer_users": [{"name": "mlflow", "password": "enough"}],
    },
    "postgresql": {},
}
# An ordinary machine, as each role's rules want it: the arguments of `wrong_machine` after the role's folder.
MACHINES: dict[str, dict] = {
    "haproxy": {
        "state": {
            "system": {"root": True, "systemd": True, "name": "Debian GNU/Linux 12 (bookworm)"},
            "unknown_servers": [],
            "wrong_networks": [],
            "ports_taken": [],
            "config": "package",
            "keepalived": {"config": "absent", "wrong": ""},
            "has_certificate": True,
            "has_key": True,
            "certificate": {"error": "", "names": ["mlflow.test"], "missing": []},
        },
        "offered": "2.6",
        "paths": {"config": "/etc/haproxy/haproxy.cfg", "keepalived": "/etc/keepalived/keepalived.conf"},
    },
    "mlflow": {
        "state": {
            "system": {
                **{
                    "root": True,
                    "systemd": "252",
                    "name": "Debian GNU/Linux 12 (bookworm)",
                    "family": "debian",
                    "machine": "x86_64",
                },
                **{"memory_mb": 8192, "free_mb": 50000, "cores": 2, "names": ["vm"], "addresses": ["10.0.0.5"]},
            },
            "python": {"path": "/usr/bin/python3", "version": "3.11.2", "has_venv": True},
            **{"wrong_schedules": [], "not_mounted": [], "exposed": {}, "missing": [], "port": ""},
            **{"releases": [], "current": ""},
        },
        "told": {
            "name": "vm",
            "python_package": "",
            "venv_packages": ["python3-venv"],
        },
        "goes_back": False,
    },
    "monitoring": {"system": {"likeness": ["ubuntu", "debian"]}, "missing": []},
    "pgbouncer": {"system": {"distribution": "debian", "name": "Debian GNU/Linux 12 (bookworm)", "systemd": "252"}},
    "postgresql": {
        "state": {"system": {"root": True, "systemd": True, "name": "Debian 12", "memory_mb": 4096}, "networks": []},
        "cluster": {
            **{"version": "15", "error": "", "port_taken": "", "access": "", "installed": True},
            "server": {"databases": {}, "roles": ["postgres"]},
        },
        "replica": {
            **{"name": "db2", "holds": [], "follows": False},
            **{"begins_to_follow": False, "is_rebuilt": False, "may_be_replaced": True},
        },
    },
}


def rules(role: str) -> ModuleType:
    return importlib.import_module(f"ansible_collections.mlops.mlflow.plugins.module_utils.{role}_rules")


def settings(role: str, given: Mapping) -> dict:
    """All settings of a role, where these are given."""
    return {**of_role(role), **JOINED[role], **given}


def merged(base: Mapping, other: Mapping) -> dict:
    """The first, with what the second has in its place, in every depth."""
    both = {
        key: merged(base[key], value) if isinstance(value, dict) and isinstance(base.get(key), dict) else value
        for key, value in other.items()
    }
    return {**base, **both}


def wrong(role: str, given: Mapping) -> list[str]:
    return rules(role).wrong(settings(role, given), str(ROOT / "roles" / role))


def wrong_machine(role: str, case: Mapping) -> list[str]:
    differs = {key: case[key] for key in ("state", "told") if key in case} | case.get("known", {})
    known = merged(MACHINES[role], differs)
    folder = str(ROOT / "roles" / role)
    return rules(role).wrong_machine(settings(role, case.get("settings", {})), folder, *known.values())


def table(name: str) -> list | dict:
    return yaml.safe_load((TABLES / f"{name}.yml").read_text())


def each_case() -> Iterator[tuple[str, dict, bool]]:
    """Role and case of every table, and whether it hangs on the machine."""
    for role in ROLES:
        yield from ((role, case, False) for case in table(role))
    for role, cases in table("machines").items():
        yield from ((role, case, True) for case in cases)


CASES = list(each_case())


@pytest.fixture(autouse=True)
def from_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tables name some files by their path in the repository."""
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(
    ("role", "case", "on_machine"), CASES, ids=[f"{role}: {case['case']}" for role, case, _ in CASES]
)
def test_refused_in_these_words(role: str, case: dict, on_machine: bool) -> None:
    said = " ".join(wrong_machine(role, case) if on_machine else wrong(role, case["settings"]))
    assert [words for words in case["says"] if words not in said] == [], said
    assert [words for words in case.get("hides", []) if words in said] == [], said


@pytest.mark.parametrize("role", ROLES)
def test_defaults_on_an_ordinary_machine_are_right(role: str) -> None:
    assert wrong(role, {}) == []
    assert wrong_machine(role, {}) == []


def test_every_sentence_of_the_rules_has_a_case() -> None:
    """A `yield` of a sentence in a module of rules that no case reaches is a rule that nothing holds."""
    reached: set[tuple[str, int]] = set()

    def trace(frame: FrameType, event: str, _argument: object) -> object:
        if not frame.f_code.co_filename.endswith("_rules.py"):
            return None
        if event == "line":
            reached.add((Path(frame.f_code.co_filename).name, frame.f_lineno))
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        for role, case, on_machine in CASES:
            wrong_machine(role, case) if on_machine else wrong(role, case["settings"])
        for user in USERS:
            wrong("mlflow", {"mlflow_auth_enabled": True, "mlflow_users": [user, user]})
    finally:
        sys.settrace(before)
    sentences = {
        (path.name, node.lineno)
        for path in (ROOT / "plugins" / "module_utils").glob("*_rules.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Yield)
    }
    assert len(sentences) > 100
    assert sorted(sentences - reached) == []


# Users of an mlflow_users

ALICE = {"name": "alice", "password": "correct horse battery"}
USERS = [
    {"password": "correct horse battery"},
    {**ALICE, "name": "admin"},
    {**ALICE, "name": "a:b"},
    {"name": "alice"},
    {"name": "alice", "password": "too short"},
    {"name": "alice", "password": "password1234"},
    {"name": "alice", "password": "pässword long enough"},
    {**ALICE, "state": "gone"},
    {**ALICE, "admin": "yes"},
    {**ALICE, "permision": {}},
    {**ALICE, "permissions": {"experiments": {"churn": "WRITE"}}},
    {**ALICE, "permissions": {"models": {"churn": "READ"}}},
    {**ALICE, "permissions": ["churn"]},
]


def wrong_users(*users: object, **given: object) -> str:
    return " ".join(wrong("mlflow", {"mlflow_auth_enabled": True, "mlflow_users": list(users), **given}))


def test_users_in_every_right_form_pass():
    full = {
        **ALICE,
        "admin": True,
        "state": "present",
        "permissions": {"experiments": {"a b": "READ", "*": "USE"}, "registered_models": None},
    }
    assert wrong_users(full, {"name": "bob", "state": "absent"}) == ""


@pytest.mark.parametrize(
    ("user", "sentence"),
    [
        *zip(
            USERS,
            [
                "Entry 1 of mlflow_users has no name.",
                "the admin of mlflow_auth_admin_username",
                "neither a colon nor a space",
                "alice has no password",
                "fewer than 12 characters",
                "everybody knows",
                "beyond ASCII",
                "present or absent",
                "neither true nor false",
                "has permision, which is none of",
                "the permission WRITE on churn; take one of READ",
                "permissions on models; they are on experiments or",
                "in another form",
            ],
            strict=True,
        ),
        ("alice", "Entry 1 of mlflow_users has no name."),
        ({**ALICE, "name": "zoë"}, "is ASCII"),
        ({**ALICE, "permissions": {"experiments": ["churn"]}}, "in another form"),
    ],
)
def test_user_that_can_not_be_is_named_in_a_sentence_without_the_password(user, sentence):
    said = wrong_users(user)
    assert sentence in said
    assert "correct horse" not in said
    assert "long enough" not in said


def test_user_named_twice_is_refused():
    assert "mlflow_users has alice twice." in wrong_users(ALICE, ALICE)


def test_permission_is_one_that_the_version_knows():
    denied = {**ALICE, "permissions": {"experiments": {"churn": "DENY"}}}
    assert wrong_users(denied) == ""
    assert "the permission DENY on churn" in wrong_users(denied, mlflow_version="3.16.1")


# What is right though it looks odd


@pytest.mark.parametrize(
    "given",
    [
        {"mlflow_port": "8080", "mlflow_workers": "4"},  # from the command line
        {"mlflow_max_body_mb": "1e2", "mlflow_backup_keep": "7.0"},
        {"mlflow_host": "0.0.0.0", "mlflow_allow_anonymous": "true"},
        {"mlflow_host": "::1"},
        {"mlflow_auth_enabled": "yes", "mlflow_rotate": "kek_passphrase, metrics_token"},
        {"mlflow_test_machine": True, "mlflow_postgres_password": "published-example"},
        {"mlflow_artifacts_timeout_seconds": -1, "mlflow_journal_max_mb": 0},
        {"mlflow_environment": {"MLFLOW_CRYPTO_KEK_PASSPHRASE": "x"}},
        {"mlflow_backup_location": "gs://one/ab", "mlflow_artifacts_location": "gs://one/a"},
        {"mlflow_postgres_connection_string": " postgres://u:p@h/d", "mlflow_backend_store": "postgresql"},
        {"mlflow_version": "9.9.9rc1", "mlflow_requirements_file": "plugins/tests/refused/release-candidate.txt"},
    ],
)
def test_right_settings_pass(given):
    assert wrong("mlflow", given) == []


def test_older_version_passes_where_it_is_gone_back_to():
    older = {"settings": {"mlflow_version": "3.16.1"}, "state": {"current": "3.17.2-0123456789ab"}}
    assert wrong_machine("mlflow", {**older, "known": {"goes_back": True}}) == []


def test_distributions_own_newer_python_is_taken_instead():
    assert (
        wrong_machine("mlflow", {"state": {"python": {"version": "3.9.2"}}, "told": {"python_package": "python3.12"}})
        == []
    )


# What follows


def follows(given: Mapping, **state: object) -> dict:
    known = merged(MACHINES["mlflow"]["state"], {**AT_REST, **state})
    wanted = MlflowSettings(settings("mlflow", given), str(ROOT / "roles" / "mlflow"))
    return mlflow_installation.follows(wanted, known, MACHINES["mlflow"]["told"])


AT_REST = {
    "account": {"group": True, "user": True},
    "data": {"stranger": "", "closed": []},
    "store": {"name": ""},
    "units": {
        unit: {"ActiveState": "active", "UnitFileState": "enabled"} for unit in ("mlflow.socket", "mlflow.service")
    },
    "timers": {},
    "elapses": {"*-*-* 02:30:00": "Sun 2026-11-29 02:30:00 UTC"},
}
POSTGRES = {"mlflow_backend_store": "postgresql"}


@pytest.mark.parametrize(
    ("given", "used", "switches"),
    [
        ({}, "", False),
        ({}, "sqlite:////var/lib/mlflow/mlflow.db", False),
        ({}, "postgresql://db:5432/mlflow", True),
        ({**POSTGRES, "mlflow_postgres_host": "db"}, "postgresql://db:5432/mlflow", False),
        # As releases from before called them
        (
            {**POSTGRES, "mlflow_postgres_connection_string": "postgresql://u:p@[fd00::1]/d"},
            "postgresql://[fd00::1]/d",
            False,
        ),
        ({**POSTGRES, "mlflow_postgres_connection_string": "postgresql://u:p@h:1,i/d"}, "postgresql://h:1,i/d", False),
    ],
)
def test_another_store_is_told_from_another_name(given, used, switches):
    assert follows(given, store={"name": used})["switches"] is switches


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"mlflow_postgres_host": "127.0.0.1"}, "mlflow"),
        ({"mlflow_backend_store": "sqlite"}, "mlflow"),  # left over from before
        ({"mlflow_postgres_host": "db"}, None),
        ({"mlflow_postgres_connection_string": "postgresql://u:p@localhost/mlflow"}, None),
        (
            {
                "mlflow_postgres_host": "pooler",
                "mlflow_postgres_direct_host": "::1",
                "mlflow_postgres_direct_port": 5433,
            },
            "mlflow",
        ),
    ],
)
def test_database_that_a_purge_may_delete_is_one_of_this_machine(given, name):
    found = follows({**POSTGRES, **given})["own_database"]
    assert found.get("name") == name
    if "mlflow_postgres_direct_port" in given:
        assert found["port"] == 5433


@pytest.mark.parametrize(
    ("memory_mb", "cores", "wanted", "workers"),
    [(8192, 1, 0, 2), (8192, 4, 0, 4), (64000, 32, 0, 8), (900, 4, 0, 1), (900, 1, 6, 6)],
)
def test_workers_follow_from_cores_and_memory(memory_mb, cores, wanted, workers):
    system = {"memory_mb": memory_mb, "cores": cores}
    assert follows({"mlflow_workers": wanted}, system=system)["workers"] == workers


def test_release_is_named_by_its_content(tmp_path):
    name = follows({})["release"]
    assert name.startswith("3.17.2-")
    assert follows({"mlflow_extra_packages": ["boto3==1.40.0"]})["release"] != name
    assert follows({}, python={"version": "3.12.1"})["release"] != name
    assert follows({}, python={"version": "3.11.9"})["release"] == name


def test_program_on_the_machine_is_shipped_whole_and_nothing_beside_it(tmp_path):
    role = ROOT / "roles" / "mlflow"
    shipped = service_files.service_files(role)
    assert {"mlflow_service/__init__.py", "mlflow_service/backup/__main__.py", "mlflow_service/system/files.py"} <= {
        *shipped
    }
    assert (
        "mlflow-service = mlflow_service.serving.app:create_app"
        in shipped["mlflow_service-1.dist-info/entry_points.txt"]
    )
    assert [name for name in shipped if "__pycache__" in name or "/." in name or "tests" in Path(name).parts] == []
    copied = tmp_path / "mlflow" / "files" / "mlflow_service"
    shutil.copytree(role / "files" / "mlflow_service", copied)
    (copied / "src" / "mlflow_service" / ".app.py.swp").write_bytes(b"\xff")
    assert service_files.service_files(tmp_path / "mlflow") == shipped


def test_variables_of_several_servers_and_a_front():
    given = {
        "mlflow_servers": ["other", "vm"],
        "mlflow_front_names": ["a.test"],
        "mlflow_front_origins": ["https://a.test"],
    }
    found = follows({**given, "mlflow_cors_allowed_origins": ["https://a.test", "https://b.test"]})
    assert found["is_first"] is False
    assert found["environment"]["MLFLOW_SERVER_JOB_ENABLE_PERIODIC_TASKS"] == "false"
    assert found["environment"]["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"] == "https://a.test,https://b.test"
    assert "a.test" in found["environment"]["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    assert found["timers_wanted"] == ["mlflow-check.timer"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "next Sun 2026-11-29 02:30:00 UTC, to /var/backups/mlflow, which keeps 7"),
        (
            {"mlflow_backup_location": "gs://b/c/", "mlflow_backup_schedule": "weekly"},
            "next weekly, to /var/backups/mlflow and gs://b/c, which keeps 7",
        ),
        ({"mlflow_backup_enabled": False}, "none: mlflow_backup_enabled is false; set it to true"),
        (
            {**POSTGRES, "mlflow_postgres_host": "127.0.0.1", "postgresql_install": True},
            "next Sun 2026-11-29 02:30:00 UTC, to /var/backups/mlflow, which keeps 7",
        ),
        (
            {**POSTGRES, "mlflow_postgres_host": "db", "mlflow_backup_enabled": False},
            "none: the data are not on this machine but in postgresql://db:5432/mlflow; "
            "set mlflow_backup_enabled to true to have them here",
        ),
        (
            {"mlflow_servers": ["a", "vm"]},
            "none here: those of the shared store are for a to make, the first of mlflow_servers",
        ),
    ],
)
def test_every_run_says_what_becomes_of_backups(given, said):
    assert follows({"mlflow_backup_enabled": True, **given})["backups"] == said


def test_what_needs_no_server_needs_no_other_settings():
    few = {
        "mlflow_host": "::",
        "mlflow_port": 80,
        "mlflow_static_prefix": "/p",
        "mlflow_config_dir": "/c",
        "mlflow_check_metrics_dir": "",
    }
    found = mlflow_installation.follows(MlflowSettings(few, str(ROOT / "roles" / "mlflow")), {}, {}, ("paths", "url"))
    assert found["url"] == "http://[::1]:80/p"
    assert found["paths"]["env"] == "/c/mlflow.env"
