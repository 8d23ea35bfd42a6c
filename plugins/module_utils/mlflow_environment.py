# Copyright the authors of this repository
# SPDX-License-Identifier: Apache-2.0
"""All that MLflow's server is told by the settings, as the variables of its environment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ansible_collections.mlops.mlflow.plugins.module_utils import postgres_address
from ansible_collections.mlops.mlflow.plugins.module_utils.mlflow_settings import MlflowSettings

MIB = 1024 * 1024


def word(value: bool) -> str:
    """A boolean as MLflow reads it."""
    return "true" if value else "false"


def server_environment(
    s: MlflowSettings,
    *,
    workers: int = 0,
    allowed_hosts: Iterable[str] = (),
    origins: Iterable[str] = (),
    system_ca_bundle: str = "",
    is_first: bool = True,
    pool: Mapping[str, int] | None = None,
) -> dict[str, object]:
    """The variables by their names; an empty value stands for a variable that is not set.

    Args:
        s: the settings.
        workers: how many serve.
        allowed_hosts: patterns of names by which clients may ask; see ``allowed_hosts`` in filter/mlflow.py.
        origins: of browsers' pages that may write, beside those of the settings.
        system_ca_bundle: the machine's own CA certificates.
        is_first: whether it is the first of the servers with this store, which alone does periodic tasks.
        pool: ``size``, ``overflow`` and ``requests`` of each worker's connection pools.
    """
    pool = pool or {}
    has_accounts, uses_metrics = s.flag("mlflow_auth_enabled"), s.flag("mlflow_metrics_enabled")
    single, tls, proxied = s.by_single_settings, s.uses_tls, s.flag("mlflow_artifacts_proxied")
    verified_by = (
        s["mlflow_ca_bundle"] or system_ca_bundle if s.text("mlflow_postgres_sslmode").startswith("verify") else ""
    )
    ca = s.paths["postgres_ca"] if s.text("mlflow_postgres_ca_file") else verified_by
    chunk = s.number("mlflow_artifacts_chunk_mb") * MIB if s.on_google else ""
    return {
        "MLFLOW_HOST": s["mlflow_host"],
        "MLFLOW_PORT": s["mlflow_port"],
        "MLFLOW_STATIC_PREFIX": s["mlflow_static_prefix"],
        "MLFLOW_WORKERS": workers,
        "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(allowed_hosts),
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": ",".join(
            dict.fromkeys(map(str, [*origins, *s["mlflow_cors_allowed_origins"]]))
        ),
        "MLFLOW_SERVER_X_FRAME_OPTIONS": s["mlflow_x_frame_options"],
        "MLFLOW_BACKEND_STORE_URI": s.store_uri,
        "MLFLOW_READ_REPLICA_BACKEND_STORE_URI": (
            postgres_address.with_driver(s.text("mlflow_postgres_replica_connection_string")) if s.on_postgres else ""
        ),
        # libpq's variables: the single settings, or what a connection string may leave out
        "PGHOST": s.postgres_host if single else "",
        "PGPORT": s["mlflow_postgres_port"] if single else "",
        "PGDATABASE": s["mlflow_postgres_database"] if single else "",
        "PGUSER": s["mlflow_postgres_user"] if single else "",
        "PGPASSWORD": s["mlflow_postgres_password"] if single else "",
        "PGSSLMODE": s["mlflow_postgres_sslmode"] if tls else "",
        "PGSSLROOTCERT": ca if tls else "",
        "PGSSLCERT": s.paths["postgres_certificate"] if tls and s.text("mlflow_postgres_certificate_file") else "",
        "PGSSLKEY": s.paths["postgres_key"] if tls and s.text("mlflow_postgres_key_file") else "",
        "PGCONNECT_TIMEOUT": "10" if s.on_postgres else "",
        "PGAPPNAME": "mlflow" if s.on_postgres else "",
        "MLFLOW_SERVICE_POSTGRES_DIRECT": s.postgres_direct,
        "MLFLOW_AUTH_CONFIG_PATH": s.paths["auth_config"] if has_accounts else "",
        "MLFLOW_SERVICE_AUTH_STORE_URI": s.auth_uri,
        "MLFLOW_BASIC_AUTH_FAIL_CLOSED": "true" if has_accounts else "",  # what MLflow has no rule for is refused
        "MLFLOW_SERVICE_SECRETS": s.paths["secrets"],
        "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": pool.get("size", ""),
        "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW": pool.get("overflow", ""),
        "MLFLOW_SQLALCHEMYSTORE_POOL_RECYCLE": s["mlflow_database_pool_recycle_seconds"],
        "MLFLOW_SERVE_ARTIFACTS": word(proxied),
        "MLFLOW_ARTIFACTS_DESTINATION": s.artifacts if proxied else "",
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": "" if proxied else s.artifacts,
        "MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT": s["mlflow_artifacts_timeout_seconds"],
        "MLFLOW_GCS_UPLOAD_CHUNK_SIZE": chunk,
        "MLFLOW_GCS_DOWNLOAD_CHUNK_SIZE": chunk,
        "GOOGLE_APPLICATION_CREDENTIALS": s.paths["google"] if s.google_auth not in ("", "metadata") else "",
        "GOOGLE_CLOUD_PROJECT": s["mlflow_gcp_project"] if s.uses_google else "",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": word(s.flag("mlflow_jobs_enabled")),
        "MLFLOW_SERVER_JOB_ENABLE_PERIODIC_TASKS": "" if is_first else "false",
        "MLFLOW_DISABLE_TELEMETRY": word(not s.flag("mlflow_telemetry_enabled")),
        "MLFLOW_LOGGING_LEVEL": s["mlflow_log_level"],
        "MLFLOW_CONFIGURE_LOGGING": "false",  # mlflow_service configures it
        "MLFLOW_SERVICE_LOG_FORMAT": s["mlflow_log_format"],
        "MLFLOW_SERVICE_METRICS": "true" if uses_metrics else "",
        "MLFLOW_SERVICE_METRICS_TOKEN_FILE": s.metrics_token_file,
        "MLFLOW_SERVICE_STOP_TIMEOUT_SECONDS": s["mlflow_stop_timeout_seconds"],
        "MLFLOW_SERVICE_DATABASE_REQUESTS": pool.get("requests", ""),
        "MLFLOW_SERVICE_MAX_BODY_BYTES": s.number("mlflow_max_body_mb") * MIB,
        "MLFLOW_SERVICE_STORE": s.store,  # by its name, for people and for the next run
        "MLFLOW_SERVICE_PREVIOUS_SETTINGS": s.paths["previous"],
        "MLFLOW_SERVICE_URL": s.url,  # where the machine itself reaches the server
        "MLFLOW_SERVICE_USER": s["mlflow_user"],  # for backups, which root starts
        "MLFLOW_SERVICE_HOME": s["mlflow_data_dir"],
        "REQUESTS_CA_BUNDLE": s["mlflow_ca_bundle"],
        "SSL_CERT_FILE": s["mlflow_ca_bundle"],
    }


def server_variables(s: MlflowSettings) -> set[str]:
    """The names of all of them, set or not."""
    return set(server_environment(s))
