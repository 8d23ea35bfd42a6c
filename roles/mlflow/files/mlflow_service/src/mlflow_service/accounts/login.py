"""Accounts: MLflow's own basic-auth in every worker, with a password check that is cheap and never stale.

MLflow's application is the one that ``--app-name basic-auth`` serves, with all its permissions. Two
things are put around it, both at the one method by which all of it checks passwords (`Passwords`):

- The machine's own key (local_key.py) is accepted as the password of the admin's name.
- A password that was right is not hashed again. The hash is slow by design, some 60 ms of one core, so
  with it every client gets but a few requests a second. MLflow has a cache for that
  (``auth_cache_ttl_seconds``), off by default, because each worker has its own: a password that was
  changed or a user that was deleted lives on in the other workers until the time is over. Ours
  remembers which password belonged to which *stored hash*, and reads the stored hash at each request,
  one small query. What is changed or deleted by anybody, through any worker or in the database, counts
  from the next request on.

The database of accounts is made, migrated and given its admin before any worker starts (`prepare`):
MLflow's workers would all try at once, and some of them die in that. The admin starts with a password
that nobody knows; the real one is set by the reconciliation (reconcile.py), so it is in no environment.
"""

import asyncio
import configparser
import hashlib
import hmac
import logging
import os
import re
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from mlflow_service.accounts import local_key
from mlflow_service.stores import pooler
from mlflow_service.system import acting, runtime

CONFIG = "MLFLOW_AUTH_CONFIG_PATH"
OPENED = re.compile(r"/mlflow/server-info/?$")
REMEMBERED = 10_000  # right passwords that a worker remembers, 32 bytes each
LOCK = 0x6D6C61757468  # "mlauth": PostgreSQL's advisory lock that whoever prepares the database holds

log = logging.getLogger("mlflow_service")


class Passwords:
    """Whether a password is a user's.

    Args:
        stored_hash: of a user's password; empty where there is no such user.
        verify: the slow comparison of a stored hash and a password.
        key: name and password that are accepted as well; see local_key.py.
        nobody: a stored hash of no user's password, so that a name that does not exist takes as long as one that does.
    """

    def __init__(
        self,
        stored_hash: Callable[[str], str],
        verify: Callable[[str, str], bool],
        key: tuple[str, str] | None,
        nobody: str,
    ) -> None:
        self.stored_hash = stored_hash
        self.verify = verify
        self.key = key
        self.nobody = nobody
        self.secret = secrets.token_bytes(32)
        self.right: set[bytes] = set()
        self.lock = threading.Lock()

    def authenticate_user(self, username: str, password: str, *, use_primary: bool = False) -> bool:
        """MLflow's question, in MLflow's words."""
        if self.key and username == self.key[0] and hmac.compare_digest(password.encode(), self.key[1].encode()):
            return True
        stored = self.stored_hash(username)
        if not stored:
            self.verify(self.nobody, password)
            return False
        digest = hmac.new(self.secret, f"{stored}\0{password}".encode(), hashlib.sha256).digest()
        if digest in self.right:
            return True
        if not self.verify(stored, password):
            return False
        with self.lock:
            if len(self.right) >= REMEMBERED:
                self.right.clear()
            self.right.add(digest)
        return True


def are_on() -> bool:
    """Whether the server asks who one is."""
    return bool(os.environ.get(CONFIG))


def read_config() -> tuple[str, str]:
    """The address of the accounts' database itself and the admin's name, where MLflow reads them."""
    config = configparser.ConfigParser()
    with open(os.environ[CONFIG], encoding="utf-8") as file:
        config.read_file(file)
    return pooler.uri(config["mlflow"]["database_uri"]), config["mlflow"]["admin_username"]


class Closed:
    """An ASGI application that answers what MLflow leaves open to everybody only to who has a password.

    That is how the server is configured (``server-info``), which nobody needs to know before. What stays
    open are ``/health`` and the files of the user interface, which everybody can download elsewhere.
    """

    def __init__(self, app: Any, passwords: Passwords) -> None:
        self.app = app
        self.passwords = passwords

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and OPENED.search(scope["path"]) and not await self.is_known(scope["headers"]):
            headers = [(b"content-type", b"text/plain"), (b"www-authenticate", b'Basic realm="mlflow"')]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": b"You are not authenticated."})
        else:
            await self.app(scope, receive, send)

    async def is_known(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether one of the headers has a name and that one's password."""
        given = local_key.credentials(dict(headers).get(b"authorization", b""))
        return given is not None and await asyncio.to_thread(self.passwords.authenticate_user, *given)


def create_app() -> Any:
    """MLflow's application with accounts, for one worker."""
    from mlflow.exceptions import MlflowException
    from mlflow.server import auth
    from werkzeug.security import check_password_hash, generate_password_hash

    def stored_hash(name: str) -> str:
        try:
            return auth.store.get_user(name).password_hash
        except MlflowException:
            return ""

    nobody = generate_password_hash(secrets.token_urlsafe())
    passwords = Passwords(stored_hash, check_password_hash, local_key.read(), nobody)
    auth.store.authenticate_user = passwords.authenticate_user
    return Closed(auth.create_app(), passwords)


def start() -> None:
    """What the server's main process does before any worker starts; ends the process on failure."""
    if not are_on():
        return
    uri, admin = read_config()
    local_key.write(admin)
    # What `mlflow server` sets for its own application of accounts, by other names than ours
    os.environ["_MLFLOW_AUTH_ADMIN_BOOTSTRAPPED"] = "true"
    os.environ["_MLFLOW_INTERNAL_GATEWAY_AUTH_TOKEN"] = secrets.token_hex(32)
    if not is_prepared(uri, admin):
        log.info("preparing the database of accounts")
        # In a process of its own: this one lives as long as the server and has no use for so much code.
        with runtime.systemd_waits("preparing the database of accounts"):
            status = subprocess.run(acting.python("-m", "mlflow_service.accounts.login")).returncode
        if status != 0:
            log.error("the database of accounts could not be prepared")
            sys.exit(1)


def is_prepared(uri: str, admin: str) -> bool:
    """Whether the database has this release's tables and the admin, seen without MLflow's slow import."""
    import sqlalchemy

    from mlflow_service.stores import schema

    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        return False
    engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool)
    try:
        with engine.connect() as connection:
            if schema.revision(connection, schema.AUTH) != schema.head(schema.AUTH):
                return False
            query = sqlalchemy.text("SELECT is_admin FROM users WHERE username = :name")
            return bool(connection.scalar(query, {"name": admin}))
    except sqlalchemy.exc.DBAPIError as error:
        log.error("the database of accounts can't be read: %s", str(error.orig).strip())
        sys.exit(1)


def prepare() -> None:
    """Make or migrate the database, and have the admin in it, one machine at a time."""
    import sqlalchemy
    from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore

    uri, admin = read_config()
    guard = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool)
    with guard.connect() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(:lock)"), {"lock": LOCK})
        else:
            connection.execute(sqlalchemy.text("PRAGMA journal_mode = WAL"))
            connection.close()  # who is alone on this machine needs no lock
        store = SqlAlchemyStore()
        store.init_db(uri)
        if not store.has_user(admin):
            store.create_user(admin, secrets.token_urlsafe(32), is_admin=True)
        elif not store.get_user(admin).is_admin:
            store.update_user(admin, is_admin=True)


def main() -> None:
    from mlflow_service.system import logs

    logs.configure()
    prepare()


if __name__ == "__main__":
    main()
