"""The server's own secrets: read into its environment, and the gateway's secrets kept readable.

MLflow encrypts the API keys of its gateway (table ``secrets``) each with a key of its own, and wraps
that key with one that it derives from a passphrase, ``MLFLOW_CRYPTO_KEK_PASSPHRASE``; without it, from
a passphrase that everybody knows. So a new passphrase must come with new wrappings, or nothing can be
read any more. MLflow's ``mlflow crypto rotate-kek`` does that for a stopped server, knows exactly one
old passphrase, and leaves a machine half-way when it is killed before the settings are changed.

Here every passphrase that was ever in use stays in a file of the service's home, and what is wrapped
by another one than today's is wrapped anew, in one transaction: at each start, and at the end of a
change that is taken up. So a new passphrase, a backup from before it, and a change that is given up all
find their data readable. Run as the service's user.
"""

import json
import logging
import os
from collections.abc import Iterable, MutableMapping
from pathlib import Path

from mlflow_service.system import runtime

FILES = {"MLFLOW_FLASK_SERVER_SECRET_KEY": "flask-secret-key", "MLFLOW_CRYPTO_KEK_PASSPHRASE": "kek-passphrase"}
PASSPHRASE = "MLFLOW_CRYPTO_KEK_PASSPHRASE"
PREVIOUS = "MLFLOW_SERVICE_PREVIOUS_KEK_PASSPHRASE"  # what the settings had before a change
RING = ".kek-passphrases"  # in the service's home: a JSON list, newest last
VERSION = int(os.environ.get("MLFLOW_CRYPTO_KEK_VERSION", "1"))  # a part of the derivation, kept as it is

log = logging.getLogger("mlflow_service")


def read(path: Path) -> str:
    """A secret's file without the line end that an editor leaves; the empty string where there is none."""
    return path.read_text(encoding="utf-8").rstrip("\n") if path.exists() else ""


def load(environment: MutableMapping[str, str] = os.environ) -> None:
    """Put the secrets of the machine into the environment that MLflow reads."""
    for name, file in FILES.items():
        if secret := read(Path(environment["MLFLOW_SERVICE_SECRETS"]) / file):
            environment[name] = secret


def remember(passphrase: str, home: Path) -> list[str]:
    """Every passphrase that was ever in use, this one among them from now on."""
    path = home / RING
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    if passphrase and passphrase not in known:
        known.append(passphrase)
        temporary = path.with_suffix(".new")
        temporary.unlink(missing_ok=True)
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            json.dump(known, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    return known


def wrap_anew(uri: str, passphrase: str, known: Iterable[str]) -> int:
    """Wrap every key of the gateway's secrets by the passphrase; returns how many had another one.

    Args:
        uri: of the tracking database.
        passphrase: the one that the server has; empty for MLflow's own.
        known: others that may have been in use.
    """
    import sqlalchemy

    engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool)
    # Where the file is not there, connecting would make it.
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        return 0
    with engine.begin() as connection:
        if not sqlalchemy.inspect(connection).has_table("secrets"):
            return 0
        lock = " FOR UPDATE" if connection.dialect.name == "postgresql" else ""
        query = f"SELECT secret_id, secret_name, wrapped_dek, kek_version FROM secrets{lock}"
        changed = 0
        for row in connection.execute(sqlalchemy.text(query)).all():
            wrapped = wrap_one(bytes(row.wrapped_dek), row.kek_version, passphrase, known)
            if wrapped is None:
                log.error(
                    "the gateway's secret %s is encrypted under a passphrase that this machine does not know; set "
                    "mlflow_crypto_kek_passphrase to the one that was in use, or enter the secret anew",
                    row.secret_name,
                )
            elif wrapped:
                update = "UPDATE secrets SET wrapped_dek = :wrapped, kek_version = :version WHERE secret_id = :id"
                values = {"wrapped": wrapped, "version": VERSION, "id": row.secret_id}
                connection.execute(sqlalchemy.text(update), values)
                changed += 1
    if changed:
        log.info("wrapped %d secrets of the gateway by the passphrase in use", changed)
    return changed


def wrap_one(wrapped: bytes, version: int, passphrase: str, known: Iterable[str]) -> bytes | None:
    """The key of one secret, wrapped by the passphrase; empty where it is already, None where none opens it."""
    from mlflow.exceptions import MlflowException
    from mlflow.utils import crypto

    wanted = passphrase or crypto.DEFAULT_KEK_PASSPHRASE
    for each in dict.fromkeys([wanted, *reversed(list(known)), crypto.DEFAULT_KEK_PASSPHRASE]):
        try:
            key = crypto.unwrap_dek(wrapped, derived(each, version))
        except MlflowException:
            continue
        if (each, version) == (wanted, VERSION):
            return b""
        return crypto.wrap_dek(key, derived(wanted, VERSION))
    return None


DERIVED: dict[tuple[str, int], bytes] = {}


def derived(passphrase: str, version: int) -> bytes:
    """The key that MLflow derives from a passphrase, which takes a part of a second the first time."""
    from mlflow.utils import crypto

    if (passphrase, version) not in DERIVED:
        DERIVED[passphrase, version] = crypto.KEKManager(passphrase, version).get_kek()
    return DERIVED[passphrase, version]


def keep_readable(environment: MutableMapping[str, str] = os.environ) -> None:
    """Wrap by the passphrase in use what another one wraps, now that this one counts."""
    passphrase = environment.get(PASSPHRASE, "")
    known = remember(passphrase, Path(environment["MLFLOW_SERVICE_HOME"]))
    try:
        wrap_anew(environment["MLFLOW_BACKEND_STORE_URI"], passphrase, known)
    finally:
        DERIVED.clear()


def start() -> None:
    """What the server's main process does before any worker starts."""
    remember(os.environ.get(PASSPHRASE, ""), Path(os.environ["MLFLOW_SERVICE_HOME"]))  # from mlflow_environment
    load()
    if not runtime.is_held():  # a server on trial may be given up, and the one before it has the passphrase before it
        keep_readable()


def carry_over() -> None:
    """What a change does when it is taken up: have what the passphrase before it wrapped wrapped by the one in use."""
    remember(os.environ.get(PREVIOUS, ""), Path(os.environ["MLFLOW_SERVICE_HOME"]))
    load()
    keep_readable()
