# Copyright the authors of this repository
# SPDX-License-Identifier: Apache-2.0
"""What the settings of the role mlflow can't be, and what it can't be on a machine."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from ansible_collections.mlops.mlflow.plugins.module_utils import postgres_address
from ansible_collections.mlops.mlflow.plugins.module_utils import settings as shared
from ansible_collections.mlops.mlflow.plugins.module_utils.mlflow_environment import server_variables
from ansible_collections.mlops.mlflow.plugins.module_utils.mlflow_installation import PYTHON_MINIMUM, Installation
from ansible_collections.mlops.mlflow.plugins.module_utils.mlflow_settings import MlflowSettings, version
from ansible_collections.mlops.mlflow.plugins.module_utils.settings import IMAGINABLE, PORT, first_wrong, unfit_system

Sentences = Iterator[str]

# Settings that are lists or dictionaries, as JSON. mlflow_rotate may be text with commas, too.
EXAMPLES = {
    "mlflow_extra_packages": '["boto3==1.40.0"]',
    "mlflow_install_environment": '{"HTTPS_PROXY": "http://proxy.example.com:3128"}',
    "mlflow_allowed_hosts": '["mlflow.example.com"]',
    "mlflow_cors_allowed_origins": '["https://app.example.com"]',
    "mlflow_check_certificates": '["/etc/ssl/mlflow.pem"]',
    "mlflow_environment": '{"MLFLOW_TRACE_TIMEOUT_SECONDS": "60"}',
    "mlflow_required_mounts": '["/srv/mlflow"]',
    "mlflow_server_options": '["--expose-prometheus=/run/metrics"]',
    "mlflow_users": '[{"name": "alice", "password": "…"}]',
    "mlflow_servers": '["mlflow-1", "mlflow-2"]',
    "mlflow_front_names": '["mlflow.example.com"]',
    "mlflow_front_origins": '["https://mlflow.example.com"]',
    "mlflow_front_certificates": '["/etc/haproxy/certificates/*.pem"]',
}

SETTINGS_WITH_SECRETS = (
    "mlflow_apt_proxy",
    "mlflow_auth_admin_password",
    "mlflow_auth_flask_secret_key",
    "mlflow_crypto_kek_passphrase",
    "mlflow_pip_index",
    "mlflow_postgres_connection_string",
    "mlflow_postgres_password",
)
# Passwords of the example of a vault in inventories/onprem have this text in them.
PUBLISHED = "published-example"
CONNECTION_STRING = r"\s*postgres(ql)?(\+psycopg2)?://"
KEY_FIELDS = ("mlflow_gcp_key_private_key", "mlflow_gcp_key_client_email", "mlflow_gcp_key_token_uri")
ABSOLUTE_PATH = r"/[^/\s].*[^/]"
HIDDEN_FOLDERS = re.compile(r"/(home|root|run/user)(/|$)")  # from the service; see mlflow.service.j2
FLEETING_FOLDERS = re.compile(r"/(home|root|run|tmp|var/tmp|dev|proc|sys)(/|$)")
MEMORY = r"(100|[1-9][0-9]?)%|[1-9][0-9]*[KMGT]|infinity"
MEMORY_ADVICE = "take 1% to 100% of the machine's memory, a size such as 2G or 1500M, or infinity"
AT_LEAST_ONE = (1, IMAGINABLE, "take 1 or more")

RANGES = {
    "mlflow_port": PORT,
    "mlflow_postgres_port": PORT,
    "mlflow_postgres_direct_port": PORT,
    "mlflow_workers": (0, 64, "take 1 to 64, or 0 to let the role decide"),
    "mlflow_database_requests": (1, 40, "take 1 to 40"),  # a worker has 40 request threads
    "mlflow_database_pool_recycle_seconds": AT_LEAST_ONE,
    "mlflow_max_body_mb": AT_LEAST_ONE,
    "mlflow_tasks_max": (256, IMAGINABLE, "take 256 or more"),
    "mlflow_oom_score_adjust": (-1000, 1000, "take -1000 to 1000"),
    "mlflow_artifacts_chunk_mb": AT_LEAST_ONE,
    "mlflow_backup_keep": (1, IMAGINABLE, "at least the newest backup stays, so take 1 or more"),
    "mlflow_check_interval_seconds": (10, IMAGINABLE, "take 10 or more"),
    "mlflow_check_restart_after": (0, IMAGINABLE, "take 1 or more, or 0 to restart nothing"),
    "mlflow_releases_keep": (1, IMAGINABLE, "at least the running release stays, so take 1 or more"),
    "mlflow_servers_at_once": AT_LEAST_ONE,
}

# Options of `mlflow server` that a setting stands for, so that mlflow_server_options can't contradict it
OWNED_OPTIONS = {
    "--host": "mlflow_host",
    "-h": "mlflow_host",
    "--port": "mlflow_port",
    "-p": "mlflow_port",
    "--workers": "mlflow_workers",
    "-w": "mlflow_workers",
    "--static-prefix": "mlflow_static_prefix",
    "--allowed-hosts": "mlflow_allowed_hosts",
    "--cors-allowed-origins": "mlflow_cors_allowed_origins",
    "--x-frame-options": "mlflow_x_frame_options",
    "--backend-store-uri": "mlflow_backend_store",
    "--read-replica-backend-store-uri": "mlflow_postgres_replica_connection_string",
    "--artifacts-destination": "mlflow_artifacts_location",
    "--default-artifact-root": "mlflow_artifacts_location",
    "--serve-artifacts": "mlflow_artifacts_proxied",
    "--no-serve-artifacts": "mlflow_artifacts_proxied",
    "--app-name": "mlflow_auth_enabled",
    "--uvicorn-opts": "mlflow_environment (uvicorn reads UVICORN_* from it)",
    "--gunicorn-opts": "mlflow_environment (the role runs uvicorn)",
    "--waitress-opts": "mlflow_environment (the role runs uvicorn)",
    "--dev": "mlflow_log_level",
}

# Variables that the machine's own secrets stand for once accounts are on
SECRET_VARIABLES = {
    "MLFLOW_FLASK_SERVER_SECRET_KEY": "mlflow_auth_flask_secret_key",
    "MLFLOW_CRYPTO_KEK_PASSPHRASE": "mlflow_crypto_kek_passphrase",
    "MLFLOW_AUTH_ADMIN_USERNAME": "mlflow_auth_admin_username",
    "MLFLOW_AUTH_ADMIN_PASSWORD": "mlflow_auth_admin_password",
}

PASSWORD_MINIMUM = 12  # MLflow's; see _validate_password in mlflow/utils/validation.py
PUBLIC_PASSWORD = "password1234"  # what MLflow's admin had in older versions, and which it refuses
USER_KEYS = {"name", "password", "admin", "state", "permissions"}
PERMISSION_KINDS = ("experiments", "registered_models")


def ranges(s: MlflowSettings) -> Sentences:
    yield from s.out_of_range(RANGES)
    if min(s.number("mlflow_database_pool_size"), s.number("mlflow_database_pool_overflow")) < 1:
        yield "mlflow_database_pool_size and mlflow_database_pool_overflow must be at least 1."
    if s.number("mlflow_start_timeout_seconds") < 10 or s.number("mlflow_stop_timeout_seconds") < 1:
        yield "mlflow_start_timeout_seconds must be at least 10 and mlflow_stop_timeout_seconds at least 1."
    for name in ("mlflow_memory_high", "mlflow_memory_max"):
        if first_wrong([s[name]], MEMORY) is not None:
            yield f"{name} is {s[name]}; {MEMORY_ADVICE}."
    if s.number("mlflow_journal_max_mb") != 0 and s.number("mlflow_journal_max_mb") < 64:
        yield f"mlflow_journal_max_mb is {s['mlflow_journal_max_mb']}; take 64 or more, or 0 to leave the machine's own limits."
    timeout = s.number("mlflow_artifacts_timeout_seconds")
    if timeout < 1 and timeout != -1:
        yield (
            f"mlflow_artifacts_timeout_seconds is {s['mlflow_artifacts_timeout_seconds']}; "
            "take 1 or more, or -1 for no limit."
        )


def release(s: MlflowSettings) -> Sentences:
    version, own = s["mlflow_version"], s.text("mlflow_requirements_file")
    if not own and not s.lock_file.is_file():
        yield (
            f"mlflow_version is {version}, for which the role has no lock; take 3.17.2, 3.17.0 or 3.16.1, "
            f"make a lock with `make lock VERSION={version}`, or name your own file in mlflow_requirements_file."
        )
    if own and not s.is_file("mlflow_requirements_file"):
        yield f"mlflow_requirements_file names {own}, which is no file on the control node."
    elif own and not re.search(rf"(?m)^mlflow(\[[a-z,]+\])?=={re.escape(str(version))}[\s\\;]", s.lock):
        yield (
            f"mlflow_requirements_file does not pin mlflow=={version}; set mlflow_version to the version that it pins."
        )
    if first_wrong([s["mlflow_pip_index"]], r"((https?|file)://\S+)?") is not None:
        yield "mlflow_pip_index is no address of a package index; it has the form https://pypi.example.com/simple."
    if first_wrong([s["mlflow_apt_proxy"]], r'(https?://[^\s";]+)?') is not None:
        yield "mlflow_apt_proxy is no address of an HTTP proxy; it has the form http://proxy.example.com:3128."
    if s.wheelhouse and not Path(s.wheelhouse).is_dir():
        yield (
            f"mlflow_wheelhouse names {s['mlflow_wheelhouse']}, which is no folder on the control node; "
            "`make wheelhouse` fills files/wheels."
        )


def published_secrets(s: MlflowSettings) -> Sentences:
    """Settings are named, values never shown."""
    secrets = {name: s.text(name) for name in SETTINGS_WITH_SECRETS}
    secrets["ansible_become_password"] = str(s.get("ansible_become_password", ""))
    secrets["mlflow_environment"] = " ".join(map(str, s["mlflow_environment"].values()))
    secrets["mlflow_users"] = " ".join(
        str(user.get("password", "")) for user in s["mlflow_users"] if isinstance(user, dict)
    )
    found = sorted(name for name, value in secrets.items() if PUBLISHED in value)
    if found and not s.flag("mlflow_test_machine"):
        yield (
            f"{' and '.join(found)} {'has' if len(found) == 1 else 'have'} a password of the example in inventories/onprem, "
            "which everybody can read; put one of your own in its place, or, on a machine for tests, set "
            "mlflow_test_machine to true."
        )


def reach(s: MlflowSettings) -> Sentences:
    prefix = s.text("mlflow_static_prefix")
    if s.is_open:
        yield (
            f"mlflow_host is {s['mlflow_host']} and there are no accounts, so everybody who reaches the machine could read "
            "and delete everything; set mlflow_auth_enabled to true, or mlflow_host to 127.0.0.1 with a front before it that "
            "authenticates users, or, where that is what you want, mlflow_allow_anonymous to true."
        )
    if first_wrong([s["mlflow_static_prefix"]], r"(/[A-Za-z0-9._~-]+)*") is not None:
        yield (
            f"mlflow_static_prefix is {s['mlflow_static_prefix']}; it begins with a slash, does not end with one, "
            "and has letters, digits and . _ ~ - between them, such as /mlflow."
        )
    if s.flag("mlflow_auth_enabled") and re.match(r"/(static|health|favicon\.ico)", prefix):
        yield (
            f"mlflow_static_prefix is {prefix}, and MLflow asks nobody for a password below a path that begins like that; "
            "take another one, such as /mlflow."
        )
    if (host := first_wrong(s["mlflow_allowed_hosts"], r"[^/,\s]+")) is not None:
        yield (
            f"mlflow_allowed_hosts has {host}; "
            "an entry is a host name, with or without a port, but without http:// and without a path."
        )
    if (origin := first_wrong(s["mlflow_cors_allowed_origins"], r"https?://[^/,\s]+|\*")) is not None:
        yield f"mlflow_cors_allowed_origins has {origin}; an origin begins with http:// or https:// and has no path."


def accounts(s: MlflowSettings) -> Sentences:
    enabled, admin = s.flag("mlflow_auth_enabled"), s.text("mlflow_auth_admin_username")
    if first_wrong([admin], r"[!-9;-~]+") is not None:
        yield f"mlflow_auth_admin_username is {admin or 'empty'}; it is ASCII and has neither a colon nor a space."
    if enabled and s.text("mlflow_auth_admin_password"):
        yield from wrong_password(s["mlflow_auth_admin_password"], "mlflow_auth_admin_password")
    yield from wrong_users(s["mlflow_users"], admin, s.permissions)
    if s["mlflow_users"] and not enabled:
        yield "mlflow_users has users, but there are no accounts; set mlflow_auth_enabled to true."
    database = s.text("mlflow_auth_database")
    if first_wrong([database], r"[^/?#\s]+") is not None:
        yield f"mlflow_auth_database is {database or 'empty'}; it is the name of a database."
    if enabled and s.database and s.database.database == database:
        yield f"mlflow_auth_database is {database}, which is the database for runs as well; name one of its own."


def rotation(s: MlflowSettings) -> Sentences:
    names = [secret["name"] for secret in s.secrets]
    if unknown := [name for name in s.rotate if name not in names]:
        yield f"mlflow_rotate has {unknown[0]}; it can have {', '.join(names)}."
    if s.rotate and not s.flag("mlflow_auth_enabled"):
        yield "mlflow_rotate is set, but the machine has secrets of its own only with accounts; set mlflow_auth_enabled to true."
    if given := [secret for secret in s.secrets if secret["name"] in s.rotate and secret["value"]]:
        yield f"mlflow_rotate has {given[0]['name']}, which {given[0]['setting']} gives; change it there."


def wrong_password(password: object, whose: str) -> Sentences:
    """A sentence about a password that MLflow would not take, without the password."""
    text = str(password)
    if len(text) < PASSWORD_MINIMUM:
        yield f"{whose} has fewer than {PASSWORD_MINIMUM} characters, which MLflow refuses; take a longer one."
    elif text == PUBLIC_PASSWORD:
        yield f"{whose} is the one that everybody knows from older versions of MLflow; take another one."
    elif not text.isascii() or not text.isprintable():
        yield f"{whose} has characters beyond ASCII, which MLflow can't read in every request; take others."


def wrong_users(users: list, admin: str, permissions: list[str]) -> Sentences:
    """Sentences about entries of ``mlflow_users`` that can't be, without a password in them.

    Args:
        users: the setting.
        admin: name of the admin, who is none of them.
        permissions: names that MLflow knows.
    """
    seen: set[str] = set()
    for number, user in enumerate(users, 1):
        if not isinstance(user, dict) or not str(user.get("name") or "").strip():
            yield f"Entry {number} of mlflow_users has no name."
            continue
        name = str(user["name"])
        yield from wrong_user(user, name)
        yield from wrong_permissions(user, name, permissions)
        if name in seen:
            yield f"mlflow_users has {name} twice."
        if name == admin:
            yield (
                f"mlflow_users has {name}, who is the admin of mlflow_auth_admin_username; "
                "that one's password is mlflow_auth_admin_password."
            )
        seen.add(name)


def wrong_user(user: dict, name: str) -> Sentences:
    """The same about one entry that has a name, but for its permissions."""
    who, state = f"mlflow_users: {name}", user.get("state", "present")
    if re.search(r"[:\s]", name) or not name.isascii() or not name.isprintable():
        yield f"{who} is no name that can be sent as one; it has neither a colon nor a space and is ASCII."
    if unknown := sorted(str(key) for key in user if key not in USER_KEYS):
        yield f"{who} has {unknown[0]}, which is none of {', '.join(sorted(USER_KEYS))}."
    if state not in ("present", "absent"):
        yield f"{who} has the state {state}; it is present or absent."
    if state == "present" and not user.get("password"):
        yield f"{who} has no password."
    elif state == "present":
        yield from wrong_password(user["password"], f"The password of {name} in mlflow_users")
    if not isinstance(user.get("admin", False), bool):
        yield f"{who} has an admin that is neither true nor false."


def wrong_permissions(user: dict, name: str, permissions: list[str]) -> Sentences:
    """The same about its permissions."""
    who, given = f"mlflow_users: {name}", user.get("permissions") or {}
    if not isinstance(given, dict) or not all(isinstance(things or {}, dict) for things in given.values()):
        yield f"{who} has permissions in another form than {{experiments: {{NAME: READ}}, registered_models: {{NAME: READ}}}}."
        return
    for kind, things in given.items():
        if kind not in PERMISSION_KINDS:
            yield f"{who} has permissions on {kind}; they are on {' or '.join(PERMISSION_KINDS)}."
            continue
        for thing, permission in (things or {}).items():
            if permission not in permissions:
                yield f"{who} has the permission {permission} on {thing}; take one of {', '.join(permissions)}."


def database(s: MlflowSettings) -> Sentences:
    direct, port = s.text("mlflow_postgres_direct_host"), s.number("mlflow_postgres_direct_port")
    if re.search(r"[\s:]", direct) and (not is_address(direct) or "%" in direct):
        yield (
            f"mlflow_postgres_direct_host is {direct}; it is a host name, an address or the folder of a Unix socket, "
            "and its port stands in mlflow_postgres_direct_port."
        )
    by_settings = not s.text("mlflow_postgres_connection_string")
    if direct and by_settings and (direct, port) == (s.postgres_host, s.number("mlflow_postgres_port")):
        yield (
            "mlflow_postgres_direct_host and mlflow_postgres_host name the same server; name the pooler in "
            "mlflow_postgres_host, or leave mlflow_postgres_direct_host empty where there is none."
        )
    if not s.text("mlflow_postgres_database") or not s.text("mlflow_postgres_user"):
        yield "mlflow_postgres_database and mlflow_postgres_user must not be empty."
    # A connection string may hold a password, so the sentence has the setting's name only.
    strings = ("mlflow_postgres_connection_string", "mlflow_postgres_replica_connection_string")
    given = [name for name in strings if s.text(name)]
    if no_strings := [name for name in given if not re.match(CONNECTION_STRING, s.text(name))]:
        yield (
            f"{no_strings[0]} is no connection string for PostgreSQL; "
            "it has the form postgresql://user:password@host:5432/database."
        )
    elif unclear := [name for name in given if not postgres_address.is_readable(s.text(name))]:
        yield (
            f"{unclear[0]} can't be read; in its user and password each of @ : / ? # % is written as a code, "
            "such as %40 for @."
        )
    if bool(s.text("mlflow_postgres_certificate_file")) != bool(s.text("mlflow_postgres_key_file")):
        yield "mlflow_postgres_certificate_file and mlflow_postgres_key_file go together; set both or neither."


def is_address(text: str) -> bool:
    """Whether it is an IP address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def artifacts(s: MlflowSettings) -> Sentences:
    location = s.text("mlflow_artifacts_location")
    if not re.match(r"(/|[a-z][a-z0-9+.-]*://[^/\s]|$)", location):
        yield (
            f"mlflow_artifacts_location is {location}; it is an absolute path or an address with a bucket, such as gs://bucket."
        )
    if ".." in f"{location}/{s['mlflow_artifacts_folder']}".split("/"):
        yield "mlflow_artifacts_location and mlflow_artifacts_folder must not go up by `..`."
    if HIDDEN_FOLDERS.match(location):
        yield (
            f"mlflow_artifacts_location is {location}, but the service can't see /home, /root and /run/user; "
            "take a folder elsewhere, such as /srv/mlflow."
        )


def google(s: MlflowSettings) -> Sentences:
    if s.google_auth == "key_file" and not s.text("mlflow_gcp_key_file"):
        yield "mlflow_gcp_auth is key_file, so mlflow_gcp_key_file must name a service account's JSON key."
    needed = {
        "mlflow_gcp_key_project_id": s.google_key["project_id"],
        **{name: s.text(name) for name in KEY_FIELDS},
    }
    lacking = [name for name, value in needed.items() if not value]
    if s.google_auth == "key_fields" and lacking:
        yield f"mlflow_gcp_auth is key_fields, so {' and '.join(lacking)} must be set."
    if s.google_auth == "user" and not s.text("mlflow_gcp_project"):
        yield "mlflow_gcp_auth is user, so mlflow_gcp_project must be set: a person's credentials belong to no project."


def backups(s: MlflowSettings) -> Sentences:
    folder, location = s.text("mlflow_backup_dir"), s.text("mlflow_backup_location")
    if first_wrong([folder], ABSOLUTE_PATH) is not None or ".." in folder.split("/"):
        yield f"mlflow_backup_dir is {folder}; it must be an absolute path without a slash at the end and without `..`."
    if FLEETING_FOLDERS.match(folder):
        yield (
            f"mlflow_backup_dir is {folder}, where a backup could not be written or would not last; "
            "take a folder elsewhere, such as /srv/mlflow-backups."
        )
    own = [s.text(name) for name in ("mlflow_data_dir", "mlflow_install_dir", "mlflow_config_dir")]
    own += [s.artifacts] if s.artifacts_are_local else []
    if around := [each for each in own if f"{folder}/".startswith(f"{each}/")]:
        yield (
            f"mlflow_backup_dir is {folder}, in {around[0]}; backups must not go with what they are of, "
            "so take a folder of their own."
        )
    if not s.text("mlflow_backup_schedule").strip() or not s.text("mlflow_gc_schedule").strip():
        yield (
            "mlflow_backup_schedule and mlflow_gc_schedule must not be empty; to have neither, set mlflow_backup_enabled and "
            "mlflow_gc_enabled to false."
        )
    if s.flag("mlflow_backup_artifacts") and not s.artifacts_are_local:
        yield (
            f"mlflow_backup_artifacts is true, but the artifacts are in {s.artifacts} and not on the machine; set it to false."
        )
    if first_wrong([location], r"(gs://[^/\s]+(/[^/\s]+)*/?)?") is not None:
        yield (
            f"mlflow_backup_location is {location}; it is gs:// with a bucket and a folder, such as gs://bucket/backups, "
            "or empty."
        )
    if f"{location}/".startswith(f"{s.artifacts}/"):
        yield f"mlflow_backup_location is {location}, in the artifact store, where clients could read backups; take another folder."
    if not re.fullmatch(r"(?=.)([0-9.]+d)?([0-9.]+h)?([0-9.]+m)?([0-9.]+s)?", s.text("mlflow_gc_older_than")):
        yield (
            f"mlflow_gc_older_than is {s['mlflow_gc_older_than']}; "
            "it has days, hours, minutes and seconds, such as 30d or 12h30m."
        )


def watching(s: MlflowSettings) -> Sentences:
    if first_wrong([s["mlflow_check_metrics_dir"]], r"(/[^/\s]\S*[^/])?") is not None:
        yield (
            f"mlflow_check_metrics_dir is {s['mlflow_check_metrics_dir']}; it is an absolute path without a slash at the end, "
            "such as /var/lib/prometheus/node-exporter, or empty."
        )
    if (path := first_wrong(s["mlflow_check_certificates"], r"/\S+")) is not None:
        yield f"mlflow_check_certificates has {path}; an entry is an absolute path on the machine without spaces."


def server(s: MlflowSettings) -> Sentences:
    """What would contradict another setting."""
    options = [str(option).partition("=")[0] for option in s["mlflow_server_options"]]
    if option := next((each for each in options if each in OWNED_OPTIONS), None):
        yield f"mlflow_server_options has {option}; use {OWNED_OPTIONS[option]} instead."
    names = list(s["mlflow_environment"])
    if variable := next((name for name in names if name in server_variables(s)), None):
        yield f"mlflow_environment has {variable}, which the role sets itself; use the setting of that name instead."
    if secret := next((name for name in names if name in secret_variables(s)), None):
        yield f"mlflow_environment has {secret}; use {SECRET_VARIABLES[secret]} instead."
    if (odd := first_wrong(names, r"[A-Za-z_][A-Za-z0-9_]*")) is not None:
        yield f"mlflow_environment has {odd}; the name of a variable has letters, digits and _ and does not begin with a digit."


def secret_variables(s: MlflowSettings) -> list[str]:
    """Variables that the machine's own secrets stand for: all with accounts, the passphrase where it is set."""
    if s.flag("mlflow_auth_enabled"):
        return list(SECRET_VARIABLES)
    return ["MLFLOW_CRYPTO_KEK_PASSPHRASE"] if s.text("mlflow_crypto_kek_passphrase") else []


def folders(s: MlflowSettings) -> Sentences:
    install, config, data = (s.text(f"mlflow_{each}_dir") for each in ("install", "config", "data"))
    if first_wrong(s["mlflow_required_mounts"], ABSOLUTE_PATH) is not None:
        yield "mlflow_required_mounts must have absolute paths without a slash at the end."
    if first_wrong([install, config, data], ABSOLUTE_PATH) is not None:
        yield "mlflow_install_dir, mlflow_config_dir and mlflow_data_dir must be absolute paths without a slash at the end."
    if len({install, config, data}) < 3:
        yield "mlflow_install_dir, mlflow_config_dir and mlflow_data_dir must be three different folders."
    if inside := [each for each in (install, config) if any(f"{each}/".startswith(f"{own}/") for own in s.writable)]:
        yield (
            f"{inside[0]} is in a folder that the service can write (mlflow_data_dir, mlflow_artifacts_location), "
            "and could exchange what root runs; take a folder elsewhere."
        )
    if HIDDEN_FOLDERS.match(data):
        yield (
            f"mlflow_data_dir is {data}, but the service can't see /home, /root and /run/user; "
            "take a folder elsewhere, such as /srv/mlflow."
        )


RULES = (
    release,
    published_secrets,
    ranges,
    reach,
    accounts,
    rotation,
    database,
    artifacts,
    google,
    backups,
    watching,
    server,
    folders,
)


def wrong(settings: Mapping, role_path: str) -> list[str]:
    """All that is wrong with the settings, whatever machine they are for."""
    return shared.wrong(MlflowSettings(settings, role_path), RULES, EXAMPLES)


def wrong_machine(settings: Mapping, role_path: str, state: Mapping, told: Mapping, goes_back: bool) -> list[str]:
    """What the settings can't be on a machine.

    Args:
        settings: all of the role.
        role_path: its folder.
        state: see `Installation`.
        told: see `Installation`.
        goes_back: whether an older release is wanted, by playbooks/rollback.yml or restore.yml.
    """
    here = Installation(MlflowSettings(settings, role_path), state, told)
    rules = (wrong_system, wrong_python, wrong_space, wrong_files)
    return [*(sentence for rule in rules for sentence in rule(here)), *wrong_version(here, goes_back)]


def wrong_system(here: Installation) -> Sentences:
    s, state = here.settings, here.state
    yield from unfit_system(here.system, "the server")
    if state["wrong_schedules"]:
        yield (
            f"systemd can't read the schedule {state['wrong_schedules'][0]}; set mlflow_backup_schedule and mlflow_gc_schedule "
            "to calendar expressions such as *-*-* 02:30:00 (`systemd-analyze calendar` explains them)."
        )
    if state["not_mounted"]:
        yield (
            f"mlflow_required_mounts has {' and '.join(state['not_mounted'])}, where nothing is mounted; mount the disk "
            "(`findmnt --fstab` shows what should be), or take the path out of the setting."
        )
    for setting, folder in list(state["exposed"].items())[:1]:
        yield (
            f"{setting} can't be there: others than root can write in {folder}, and could exchange what root runs; give that "
            "folder to root (mode 0755), or take another."
        )
    if state["port"]:
        yield (
            f"MLflow can't listen on {s.listen}, because {state['port']}; "
            "change mlflow_host or mlflow_port, or stop what is in the way."
        )


def wrong_python(here: Installation) -> Sentences:
    s, given, found = here.settings, here.settings.text("mlflow_python"), here.state["python"]["version"]
    if given and not found:
        yield f"mlflow_python names {given}, which is not there or does not start."
    elif not here.python_fits and (given or not here.told["python_package"]):
        yield (
            f"MLflow {s['mlflow_version']} needs Python {PYTHON_MINIMUM} or later, and {here.system['name']} has "
            f"{found or 'none'}; install a newer one and set mlflow_python to its path, such as /usr/local/bin/python3.12."
        )
    if lacking := here.wheels["missing"]:
        own, extra = s.text("mlflow_requirements_file"), " ".join(s["mlflow_extra_packages"])
        yield (
            f"mlflow_wheelhouse ({s['mlflow_wheelhouse']}) has no wheel of {lacking[0]}"
            f"{f' and {len(lacking) - 1} more' if len(lacking) > 1 else ''} for Python {here.python_version} on "
            f"{here.system['machine']}; where there is internet, run `make wheelhouse PYTHON={here.python_version} "
            f"ARCH={here.system['machine']} VERSION={s['mlflow_version']}"
            f"{f' REQUIREMENTS={own}' if own else ''}{f' EXTRA={chr(34)}{extra}{chr(34)}' if extra else ''}`."
        )


def wrong_space(here: Installation) -> Sentences:
    s, memory, free = here.settings, here.system["memory_mb"], here.system["free_mb"]
    if memory < s.number("mlflow_memory_required_mb"):
        yield (
            f"This machine has {memory} MiB of memory, MLflow wants {s['mlflow_memory_required_mb']} MiB "
            "(mlflow_memory_required_mb)."
        )
    if here.release not in here.state["releases"] and free < s.number("mlflow_disk_required_mb"):
        yield (
            f"{s['mlflow_install_dir']} has {free} MiB free, a release wants {s['mlflow_disk_required_mb']} MiB while it is "
            "built (mlflow_disk_required_mb); free some or move mlflow_install_dir."
        )


def wrong_version(here: Installation, goes_back: bool) -> Sentences:
    current, wanted = version(here.current_version), version(here.settings["mlflow_version"])
    if current and wanted and current > wanted and not goes_back:
        yield (
            f"The machine has MLflow {current} and mlflow_version is {wanted}, which is older; "
            f"set mlflow_version to {current}, or go back with playbooks/rollback.yml."
        )


def wrong_files(here: Installation) -> Sentences:
    s, missing = here.settings, here.state["missing"]
    if s.text("mlflow_ca_bundle") in missing:
        yield f"mlflow_ca_bundle names {s['mlflow_ca_bundle']}, which is no file on the machine."
    if absent := [file for file in s.brought if file.get("source") in missing]:
        yield (
            f"{absent[0]['setting']} names {absent[0]['source']}, "
            "which is a file neither on the control node nor on the machine."
        )
