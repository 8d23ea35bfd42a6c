# Copyright the authors of this repository
# SPDX-License-Identifier: Apache-2.0
"""What follows from the settings of the role mlflow alone, whatever machine they are for."""

from __future__ import annotations

import json
import os
import re
from functools import cached_property
from pathlib import Path

from ansible_collections.mlops.mlflow.plugins.module_utils import postgres_address
from ansible_collections.mlops.mlflow.plugins.module_utils.settings import Settings, number
from packaging.version import InvalidVersion, Version  # which ansible-core needs as well

LOOPBACK = re.compile(r"127\.|::1$|localhost$")
# If the peer of a connection vanishes silently, it is dropped after 30 seconds.
POSTGRES_OPTIONS = "keepalives_idle=30&keepalives_interval=10&keepalives_count=3&tcp_user_timeout=30000"
# What MLflow knows; DENY since 3.17.0. Source: mlflow/server/auth/permissions.py
PERMISSIONS = ("READ", "USE", "EDIT", "MANAGE", "NO_PERMISSIONS")
DENY_SINCE = Version("3.17.0")


def version(text: object) -> Version | None:
    """A version that can be compared; None where the text is none."""
    try:
        return Version(str(text))
    except InvalidVersion:
        return None


class MlflowSettings(Settings):
    """The role's settings, and what follows from them."""

    # The release
    @cached_property
    def lock_file(self) -> Path:
        """The requirement file with hashes: the operator's own, or one of the role's."""
        own = self.text("mlflow_requirements_file")
        return Path(own).resolve() if own else self.role_path / f"files/locks/mlflow-{self['mlflow_version']}.txt"

    @cached_property
    def lock(self) -> str:
        """Its text; empty where there is no such file. The operator's own may be encrypted with Ansible's vault."""
        text = self.get("mlflow_requirements_file.content")
        if text is None:
            text = self.lock_file.read_text(encoding="utf-8") if self.lock_file.is_file() else ""
        return text.rstrip()

    @cached_property
    def wheelhouse(self) -> str:
        """The folder with wheels on the control node, or the empty string."""
        given = self.text("mlflow_wheelhouse")
        return os.path.realpath(os.path.expanduser(given)) if given else ""

    # Where
    @cached_property
    def paths(self) -> dict[str, str]:
        """The files on the machine, but for those of a release, by what they are for."""
        config = self.text("mlflow_config_dir")
        text_files = self.text("mlflow_check_metrics_dir") or "/var/lib/prometheus/node-exporter"
        units = ("backup_service", "backup_timer", "check_service", "check_timer", "gc_service", "gc_timer")
        return {
            "env": f"{config}/mlflow.env",
            "auth_config": f"{config}/basic-auth.ini",
            "secrets": f"{config}/secrets",
            "previous": f"{config}/previous.env",  # settings of a store whose rows are copied at the next start
            "google": f"{config}/google-credentials.json",
            "postgres_ca": f"{config}/postgres-ca.pem",
            "postgres_certificate": f"{config}/postgres-certificate.pem",
            "postgres_key": f"{config}/postgres-key.pem",
            "backup_env": f"{config}/backup.env",
            "check_env": f"{config}/check.env",
            "check_text": f"{text_files}/mlflow.prom",  # written by the check itself
            "socket": "/etc/systemd/system/mlflow.socket",
            "service": "/etc/systemd/system/mlflow.service",
            **{unit: f"/etc/systemd/system/mlflow-{unit.replace('_', '.')}" for unit in units},
            "journald": "/etc/systemd/journald.conf.d/mlflow.conf",
            "admin": "/usr/local/sbin/mlflow-admin",
            "check": "/usr/local/sbin/mlflow-check",
        }

    @cached_property
    def rollback_dir(self) -> str:
        """Where `managed_files` keeps what it replaced, until the change is done."""
        return f"{self['mlflow_config_dir']}/rollback"

    @cached_property
    def folders(self) -> list[dict]:
        """Entries for the module ``managed_files``: the folders, by who may enter them."""
        owner, group = self.text("mlflow_user"), self.text("mlflow_group")
        of_the_service = [self.text("mlflow_data_dir"), *([self.artifacts] if self.artifacts_are_local else [])]
        return [
            {"path": self.text("mlflow_config_dir"), "mode": "0755"},
            *({"path": path, "owner": owner, "group": group, "mode": "0750"} for path in of_the_service),
            {"path": self.text("mlflow_backup_dir"), "group": group, "mode": "0710"},
            *([{"path": self.paths["secrets"], "group": group, "mode": "0750"}] if self.secrets_kept else []),
        ]

    @cached_property
    def private_paths(self) -> list[str]:
        """Files that the service may read and nobody else, where they are needed."""
        names = ("previous", "env", "google", "postgres_ca", "postgres_certificate", "postgres_key", "auth_config")
        return [self.paths[name] for name in names]

    # How it is reached
    @cached_property
    def listen(self) -> str:
        """Address and port of the socket, as systemd writes them."""
        host = self.text("mlflow_host")
        return f"[{host}]:{self['mlflow_port']}" if ":" in host else f"{host}:{self['mlflow_port']}"

    @cached_property
    def address(self) -> str:
        """Where the machine itself reaches the server, with the port."""
        anywhere = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.text("mlflow_host"))
        return f"{anywhere}:{self['mlflow_port']}" if anywhere else self.listen

    @cached_property
    def url(self) -> str:
        return f"http://{self.address}{self['mlflow_static_prefix']}"

    @cached_property
    def is_open(self) -> bool:
        """Whether everybody who reaches the machine could do everything, and nobody has said that this is wanted."""
        wanted = self.flag("mlflow_auth_enabled") or self.flag("mlflow_allow_anonymous")
        return not wanted and LOOPBACK.match(self.text("mlflow_host")) is None

    # The backend store
    @cached_property
    def on_postgres(self) -> bool:
        return self["mlflow_backend_store"] == "postgresql"

    @cached_property
    def postgres_host(self) -> str:
        """The host of the single settings: a name, an address or the folder of a Unix socket."""
        return self.text("mlflow_postgres_host") or postgres_address.SOCKET_FOLDER

    @cached_property
    def by_single_settings(self) -> bool:
        """Whether PostgreSQL is addressed by mlflow_postgres_host and its kin, not by a connection string."""
        return self.on_postgres and not self.text("mlflow_postgres_connection_string")

    @cached_property
    def uses_tls(self) -> bool:
        """Whether the settings of TLS count; over a Unix socket there is none."""
        return self.on_postgres and not (self.by_single_settings and self.postgres_host.startswith("/"))

    @cached_property
    def store_uri(self) -> str:
        """The backend store as MLflow is told it; libpq's variables carry what a bare one leaves out."""
        if not self.on_postgres:
            return f"sqlite:///{self['mlflow_data_dir']}/mlflow.db"
        given = self.text("mlflow_postgres_connection_string")
        return postgres_address.with_driver(given) if given else f"postgresql+psycopg2://?{POSTGRES_OPTIONS}"

    @cached_property
    def database(self) -> postgres_address.Address | None:
        """PostgreSQL itself, past a pooler; None for SQLite and for a connection string that is none."""
        return postgres_address.of_server(self)

    @cached_property
    def store(self) -> str:
        """The store by a name that may be shown. Who puts a pooler before a PostgreSQL keeps the store."""
        if self.on_postgres:
            return str(self.database) if self.database else ""
        return self.store_uri

    @cached_property
    def holds_data(self) -> bool:
        """Whether the metadata are on this machine, so that backups are this role's to make."""
        return postgres_address.data_are_here(self)

    @cached_property
    def own_database(self) -> dict[str, object]:
        """The database for this server on a PostgreSQL of the same machine, whatever store is in use; empty elsewhere.

        One that only a connection string names was not made for it by the settings, and is none.

        With the accounts' database beside it, ``auth``, the ``owner`` and the ``port``; see the module mlflow_removal.
        """
        name = self.text("mlflow_postgres_database")
        if self.text("mlflow_postgres_connection_string") and not self.text("mlflow_postgres_direct_host"):
            return {}
        address = postgres_address.of_server({**self, "mlflow_backend_store": "postgresql"})
        if address is None or not address.is_here or address.database != name:
            return {}
        names = {"name": name, "auth": self.text("mlflow_auth_database"), "owner": self.text("mlflow_postgres_user")}
        return {**names, "port": number(address.port)}

    @cached_property
    def postgres_direct(self) -> str:
        """Host and port of PostgreSQL itself where a pooler stands before it; otherwise empty."""
        host = self.text("mlflow_postgres_direct_host") if self.on_postgres else ""
        return f"{host}:{self['mlflow_postgres_direct_port']}" if host else ""

    @cached_property
    def pools_per_worker(self) -> int:
        """Connection pools: two stores in each worker, one for the job runner, one for the accounts."""
        return 2 + self.flag("mlflow_jobs_enabled") + self.flag("mlflow_auth_enabled")

    @cached_property
    def pool_wanted(self) -> dict[str, int]:
        """See `connection_pool` in filter/mlflow.py."""
        return {
            "size": self.number("mlflow_database_pool_size"),
            "overflow": self.number("mlflow_database_pool_overflow"),
            "requests": self.number("mlflow_database_requests"),
        }

    # Accounts
    @cached_property
    def auth_uri(self) -> str:
        """The accounts' database, beside the runs'; empty without accounts."""
        if not self.flag("mlflow_auth_enabled"):
            return ""
        if self.on_postgres:
            return postgres_address.with_database(self.store_uri, self.text("mlflow_auth_database"))
        return f"sqlite:///{self['mlflow_data_dir']}/auth.db"

    @cached_property
    def permissions(self) -> list[str]:
        wanted = version(self["mlflow_version"])
        return [*PERMISSIONS, *(["DENY"] if wanted and wanted >= DENY_SINCE else [])]

    @cached_property
    def secrets(self) -> list[dict]:
        """Secrets that the machine makes itself unless a setting gives them; ``name`` is the word for mlflow_rotate."""
        given = {
            "admin_password": "mlflow_auth_admin_password",
            "flask_secret_key": "mlflow_auth_flask_secret_key",
            "kek_passphrase": "mlflow_crypto_kek_passphrase",
            "metrics_token": "",
        }
        return [
            {
                "name": name,
                "setting": setting,
                "value": self.text(setting) if setting else "",
                "root_only": name == "admin_password",
            }
            for name, setting in given.items()
        ]

    @cached_property
    def secrets_kept(self) -> list[dict]:
        """Those that have a file. Without accounts, a passphrase that is set stays in use, and the others' files go."""
        if self.flag("mlflow_auth_enabled"):
            return self.secrets
        return [secret for secret in self.secrets if secret["name"] == "kek_passphrase" and secret["value"]]

    @cached_property
    def rotate(self) -> list[str]:
        """The names in mlflow_rotate, which is a list, or text with commas."""
        given = self["mlflow_rotate"]
        names = given.split(",") if isinstance(given, str) else given
        return [name for name in (str(each).strip() for each in names) if name]

    @cached_property
    def metrics_token_file(self) -> str:
        """The file on the machine with which Prometheus may read the metrics; empty where it needs none."""
        wanted = self.flag("mlflow_metrics_enabled") and self.flag("mlflow_auth_enabled")
        return f"{self.paths['secrets']}/metrics-token" if wanted else ""

    # The artifact store
    @cached_property
    def artifacts(self) -> str:
        """The address or the folder of the artifacts."""
        location = self.text("mlflow_artifacts_location").rstrip("/") or f"{self['mlflow_data_dir']}/artifacts"
        folder = self.text("mlflow_artifacts_folder").strip("/")
        return f"{location}/{folder}" if folder else location

    @cached_property
    def artifacts_are_local(self) -> bool:
        return self.artifacts.startswith("/")

    @cached_property
    def on_google(self) -> bool:
        """Whether the artifacts are in Google Cloud Storage."""
        return self.artifacts.startswith("gs://")

    @cached_property
    def writable(self) -> list[str]:
        """Folders that the service may write: its home, and that of local artifacts elsewhere."""
        home = self.text("mlflow_data_dir")
        elsewhere = self.artifacts_are_local and not self.artifacts.startswith(home + "/")
        return [home, self.artifacts] if elsewhere else [home]

    @cached_property
    def elsewhere(self) -> list[str]:
        """What a removal never touches, but for a database: stores on no disk of the machine."""
        places = ["" if self.artifacts_are_local else self.artifacts, self.text("mlflow_backup_location")]
        return [place for place in places if place]

    # Google's credentials
    @cached_property
    def uses_google(self) -> bool:
        """Whether anything of this machine goes to Google Cloud Storage: artifacts, or backups."""
        return self.on_google or bool(self.text("mlflow_backup_location"))

    @cached_property
    def google_auth(self) -> str:
        """How the machine proves who it is there (mlflow_gcp_auth); empty where it does not go there."""
        return self.text("mlflow_gcp_auth") if self.uses_google else ""

    @cached_property
    def google_key(self) -> dict[str, str]:
        """A service account's key of the single fields, as the JSON file that Google gives out has them."""
        fields = ("type", "private_key_id", "client_email", "client_id", "auth_uri", "token_uri")
        fields += ("auth_provider_x509_cert_url", "client_x509_cert_url")
        return {
            **{field: self.text(f"mlflow_gcp_key_{field}") for field in fields},
            "project_id": self.text("mlflow_gcp_key_project_id") or self.text("mlflow_gcp_project"),
            "private_key": self.text("mlflow_gcp_key_private_key").replace("\\n", "\n").strip() + "\n",
        }

    @cached_property
    def brought(self) -> list[dict]:
        """Files that the operator brings: ``setting``, ``path`` on the machine, and ``source`` or ``secret``, a text.

        The source is a path on the control node, or on the machine already; an empty one is not wanted.
        """
        by_file = self.google_auth == "key_file"
        user_file = os.path.expanduser(self.text("mlflow_gcp_user_credentials_file"))
        key = json.dumps(self.google_key, indent=4, sort_keys=True)
        of_postgres = {"ca": "postgres_ca", "certificate": "postgres_certificate", "key": "postgres_key"}
        google = self.paths["google"]
        return [
            {
                "setting": "mlflow_gcp_key_file",
                "path": google,
                "source": self.text("mlflow_gcp_key_file") if by_file else "",
            },
            {
                "setting": "mlflow_gcp_user_credentials_file",
                "path": google,
                "source": user_file if self.google_auth == "user" else "",
            },
            {
                "setting": "mlflow_gcp_key_private_key",
                "path": google,
                "secret": key if self.google_auth == "key_fields" else "",
            },
            *(
                {
                    "setting": f"mlflow_postgres_{kind}_file",
                    "path": self.paths[path],
                    "source": self.text(f"mlflow_postgres_{kind}_file") if self.on_postgres else "",
                }
                for kind, path in of_postgres.items()
            ),
        ]

    @cached_property
    def sources_here(self) -> list[str]:
        """The paths among them that are on the control node."""
        return [file["source"] for file in self.brought if os.path.isfile(file.get("source") or "")]

    @cached_property
    def expected_files(self) -> list[str]:
        """Files that ought to be on the machine already."""
        sources = [file["source"] for file in self.brought if file.get("source")]
        ca_bundle = self.text("mlflow_ca_bundle")
        return [*([ca_bundle] if ca_bundle else []), *(path for path in sources if path not in self.sources_here)]
