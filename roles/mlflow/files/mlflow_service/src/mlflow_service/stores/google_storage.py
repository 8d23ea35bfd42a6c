"""Try a ``gs://`` artifact store before the server needs it, with exactly the credentials meant for it.

MLflow goes on without credentials when it finds none or can't read them, and the first sign would
be a user's failed upload. Google's libraries name the trouble in their own terms and try for
minutes; here each trouble is one sentence, within seconds, that names the role's setting.
"""

import contextlib
import email.utils
import functools
import json
import os
import pwd
import re
import secrets
import socket
import ssl
import time
import warnings
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import google.auth
import google.auth.compute_engine
import google.auth.exceptions
import google.auth.transport.requests
import google.oauth2.credentials
import google.oauth2.service_account
import requests
from google.api_core.exceptions import GoogleAPICallError
from google.cloud import storage

TIMEOUT_SECONDS = 10
METADATA_TIMEOUT_SECONDS = 3
ACCOUNT_PATH = "computeMetadata/v1/instance/service-accounts/default/?recursive=true"
# Any of them lets a virtual machine write objects. Source: https://cloud.google.com/storage/docs/oauth-scopes.
WRITE_SCOPES = {"cloud-platform", "devstorage.full_control", "devstorage.read_write"}
CREDENTIALS = {
    "metadata": google.auth.compute_engine.Credentials,
    "key_file": google.oauth2.service_account.Credentials,
    "key_fields": google.oauth2.service_account.Credentials,
    "user": google.oauth2.credentials.Credentials,
}
FIELDS = {
    "service_account": ("client_email", "private_key", "token_uri"),
    "authorized_user": ("client_id", "client_secret", "refresh_token"),
}
FITS = {
    "service_account": "mlflow_gcp_auth: key_file with mlflow_gcp_key_file",
    "authorized_user": "mlflow_gcp_auth: user with mlflow_gcp_user_credentials_file",
}
FILE_SETTINGS = {"key_file": "mlflow_gcp_key_file", "user": "mlflow_gcp_user_credentials_file"}
LOGIN = "run `gcloud auth application-default login` again"


class GoogleError(Exception):
    """The store can't be used like this; the text is one sentence for a person."""


def for_backups(sentence: str) -> str:
    """A sentence about the artifact store as one about where the backups go."""
    return sentence.replace("mlflow_artifacts_location", "mlflow_backup_location").replace(
        " (folders go to mlflow_artifacts_folder)", ""
    )


def check(destination: str, environment: Mapping[str, str], auth: str, write: bool = True) -> dict[str, str]:
    """Obtain a token, then write, read back and delete an object of our own.

    Args:
        destination: ``gs://bucket/folder``.
        environment: the service's; Google's libraries read the same from ``os.environ``.
        auth: the setting mlflow_gcp_auth: ``metadata``, ``key_file``, ``key_fields`` or ``user``.
        write: whether to go on to the bucket once there is a token.

    Returns:
        ``{"identity": ..., "project": ...}``: the account's e-mail address and the project.
    """
    refuse_emulator(environment)
    session = ClockedSession()
    if auth == "metadata":
        identity = virtual_machine(session, environment)
    else:
        info = credentials_file(environment, auth)
        identity = info.get("client_email") or info.get("account") or "the logged-in user"
    credentials, project = find_credentials(session, environment, auth)
    authenticate(credentials, session, auth, identity)
    if write:
        bucket, _, folder = destination.removeprefix("gs://").partition("/")
        with storage.Client(project=project, credentials=credentials) as client:
            use_bucket(client, bucket, "/".join(filter(None, folder.split("/"))), identity)
    return {"identity": identity, "project": project}


class ClockedSession(requests.Session):
    """A session that compares the machine's clock with the one in each answer.

    Attributes:
        host: that answered last.
        ahead_seconds: how far the machine's clock was ahead of that host's; None when unknown.
    """

    def __init__(self) -> None:
        super().__init__()
        self.host = "Google"
        self.ahead_seconds: int | None = None
        self.hooks["response"].append(self.compare)

    def compare(self, answer: requests.Response, **_: Any) -> None:
        self.host = urlsplit(answer.url).netloc
        with contextlib.suppress(KeyError, TypeError, ValueError):
            there = email.utils.parsedate_to_datetime(answer.headers["Date"]).timestamp()
            self.ahead_seconds = round(time.time() - there)


# What the machine has


def refuse_emulator(environment: Mapping[str, str]) -> None:
    if environment.get("STORAGE_EMULATOR_HOST"):
        raise GoogleError(
            "STORAGE_EMULATOR_HOST is set, so MLflow would send artifacts there and without credentials: "
            "remove it from mlflow_environment."
        )


def credentials_file(environment: Mapping[str, str], auth: str) -> dict[str, Any]:
    """The content of the file that Google's libraries will read, known to be usable."""
    path = environment.get("GOOGLE_APPLICATION_CREDENTIALS", "")
    setting = FILE_SETTINGS.get(auth, "mlflow_gcp_key_private_key and the other mlflow_gcp_key_* settings")
    if not path:
        raise GoogleError(f"No credentials are named for mlflow_gcp_auth: {auth}: set {setting}.")
    try:
        with open(path, encoding="utf-8") as file:
            info = json.load(file)
    except FileNotFoundError:
        raise GoogleError(f"{path} does not exist: set {setting}.") from None
    except OSError as error:
        user = pwd.getpwuid(os.geteuid()).pw_name
        raise GoogleError(
            f"{path} can't be read by the service's user {user} ({error.strerror}): let it read the file "
            f"and enter the folders above, or set {setting} to one that it can read."
        ) from None
    except ValueError:  # from None, because the error quotes the file
        raise GoogleError(
            f"{path} is not JSON, and it has to be what Google gave out, unchanged: set {setting}."
        ) from None
    check_fields(info, path, auth, setting, environment)
    return info


def check_fields(info: Any, path: str, auth: str, setting: str, environment: Mapping[str, str]) -> None:
    """Refuse a file that Google's libraries would refuse, or take for something else."""
    wanted = "authorized_user" if auth == "user" else "service_account"
    found = info.get("type") if isinstance(info, dict) else None
    if found != wanted:
        other = f", and `{found}` goes with {FITS[found]}" if found in FITS else ""
        has = f"has the type `{found}`" if isinstance(found, str) else "has no `type`"
        raise GoogleError(
            f"{path} is JSON but {has}; mlflow_gcp_auth: {auth} needs the type `{wanted}`{other}: set {setting}."
        )
    for field in FIELDS[wanted]:
        if not (isinstance(info.get(field), str) and info[field].strip()):
            where = f"mlflow_gcp_key_{field}" if auth == "key_fields" else setting
            raise GoogleError(f"{path} lacks the field `{field}`, without which Google accepts no login: set {where}.")
    if wanted == "service_account":
        check_private_key(info, path, "mlflow_gcp_key_private_key" if auth == "key_fields" else setting)
        if not (info.get("project_id") or environment.get("GOOGLE_CLOUD_PROJECT")):
            where = "mlflow_gcp_key_project_id or mlflow_gcp_project" if auth == "key_fields" else "mlflow_gcp_project"
            raise GoogleError(f"{path} lacks the field `project_id`, and MLflow needs a project: set {where}.")
    elif not environment.get("GOOGLE_CLOUD_PROJECT"):
        raise GoogleError(
            f"{path} is a user's login, which belongs to no project, and MLflow needs one: set mlflow_gcp_project."
        )


def check_private_key(info: Mapping[str, Any], path: str, setting: str) -> None:
    try:
        google.oauth2.service_account.Credentials.from_service_account_info(info)
    except (ValueError, TypeError, google.auth.exceptions.GoogleAuthError):
        key = info["private_key"].strip()
        if not key.startswith("-----BEGIN"):
            why = "it does not begin with -----BEGIN PRIVATE KEY-----"
        elif "\n" not in key:
            why = "its line breaks are missing" + (", `\\n` stands there as two characters" if "\\n" in key else "")
        else:
            why = "it was cut or changed"
        raise GoogleError(
            f"The private key in {path} can't be read as PEM ({why}): set {setting} to the key that Google gave out."
        ) from None


def virtual_machine(session: requests.Session, environment: Mapping[str, str]) -> str:
    """The e-mail address of this virtual machine's service account, known to be allowed to use storage."""
    host = environment.get("GCE_METADATA_HOST") or environment.get("GCE_METADATA_ROOT") or "metadata.google.internal"
    other = "choose key_file, key_fields or user for mlflow_gcp_auth"
    try:
        answer = session.get(
            f"http://{host}/{ACCOUNT_PATH}", headers={"Metadata-Flavor": "Google"}, timeout=METADATA_TIMEOUT_SECONDS
        )
    except OSError as error:
        raise GoogleError(
            f"No metadata server answers at {host} ({reason(error)}), so this is no virtual machine of Google Cloud, "
            f"which mlflow_gcp_auth: metadata needs: {other}."
        ) from None
    if answer.headers.get("Metadata-Flavor") != "Google":
        raise GoogleError(f"{host} answers, but not as Google's metadata server does: {other}.")
    if answer.status_code == 404:
        raise GoogleError(
            "This virtual machine has no service account, which mlflow_gcp_auth: metadata needs: "
            f"attach one, or {other}."
        )
    try:
        account = answer.json()
        identity, scopes = account["email"], {scope.rpartition("/")[2] for scope in account["scopes"]}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise GoogleError(
            f"The metadata server answered {answer.status_code} where it should describe the service account: {other}."
        ) from None
    if not scopes & WRITE_SCOPES:
        raise GoogleError(missing_scopes(identity))
    return identity


def missing_scopes(identity: str) -> str:
    return (
        f"The access scopes of this virtual machine do not let {identity} write to Cloud Storage: stop it, set its "
        "access scopes to cloud-platform and start it, or choose another mlflow_gcp_auth."
    )


# What Google says to it


def find_credentials(session: requests.Session, environment: Mapping[str, str], auth: str) -> tuple[Any, str]:
    """Credentials and project as MLflow will find them; raises GoogleError where they are not the ones meant."""
    request = google.auth.transport.requests.Request(session)
    try:
        with warnings.catch_warnings():  # advice on a user's credentials, for whoever writes programs
            warnings.simplefilter("ignore")
            credentials, project = google.auth.default(scopes=storage.Client.SCOPE, request=request)
    except google.auth.exceptions.GoogleAuthError:
        raise GoogleError(
            f"Google's library finds no credentials for mlflow_gcp_auth: {auth}, and MLflow would go on without any: "
            "remove GOOGLE_*, GCE_* and NO_GCE_CHECK from mlflow_environment, or choose another mlflow_gcp_auth."
        ) from None
    if type(credentials) is not CREDENTIALS[auth]:
        explicit = environment.get("GOOGLE_APPLICATION_CREDENTIALS")
        source = f"GOOGLE_APPLICATION_CREDENTIALS ({explicit})" if explicit else "gcloud's own folder"
        raise GoogleError(
            f"MLflow would take credentials from {source} instead of those of mlflow_gcp_auth: {auth}: remove that, "
            "from mlflow_environment or from the service user's home, or choose the mlflow_gcp_auth that it fits."
        )
    if not project:
        raise GoogleError("MLflow needs a Google Cloud project, and the credentials name none: set mlflow_gcp_project.")
    return credentials, project


def authenticate(credentials: Any, session: ClockedSession, auth: str, identity: str) -> None:
    """Obtain a token; the credentials keep it."""
    request = google.auth.transport.requests.Request(session)
    try:
        credentials.refresh(functools.partial(request, timeout=TIMEOUT_SECONDS))
    except google.auth.exceptions.RefreshError as error:
        raise GoogleError(no_token(error, session, auth, identity)) from None
    except (OSError, google.auth.exceptions.TransportError) as error:
        raise GoogleError(unreachable(error)) from None


def no_token(error: google.auth.exceptions.RefreshError, session: ClockedSession, auth: str, identity: str) -> str:
    """Why Google gave no token. Source: its answers, ``{"error": ..., "error_description": ...}``."""
    answer = error.args[1] if len(error.args) > 1 and isinstance(error.args[1], dict) else {}
    kind, said = answer.get("error", ""), str(answer.get("error_description", ""))
    if isinstance(kind, dict):  # not the token endpoint's way to refuse, but that of Google's other servers
        kind, said = "", str(kind.get("message", ""))
    setting = FILE_SETTINGS.get(auth, "the mlflow_gcp_key_* settings")
    if auth == "metadata":
        return (
            f"The metadata server gave no token for {identity} ({quoted(str(error.args[0]))}): look whether the "
            "service account still exists and is enabled, or choose another mlflow_gcp_auth."
        )
    if "reasonable timeframe" in said:
        return clock(session.ahead_seconds)
    if auth == "user":
        what = "no longer accepts this login" if kind != "invalid_client" else "does not know the client of this login"
        why = quoted(said or str(error.args[0]))
        return f"Google {what} ({why}): {LOGIN} and set mlflow_gcp_user_credentials_file to the file that it writes."
    if "JWT Signature" in said:
        return (
            f"Google does not accept the key of {identity} ({quoted(said)}), so the key was deleted, or `private_key`, "
            f"`private_key_id` and `client_email` are not of one key: make a new key and set {setting}."
        )
    if "not found" in said or "disabled" in said:
        return (
            f"Google has no working account {identity} ({quoted(said)}), it was deleted or disabled: enable it, or set "
            f"{setting} to the key of another one."
        )
    uri = "mlflow_gcp_key_token_uri" if auth == "key_fields" else "`token_uri` in its file"
    return (
        f"{session.host} gave no token for {identity} "
        f"({quoted(said or kind or str(error.args[0]))}): check {setting} and {uri}."
    )


def clock(ahead_seconds: int | None) -> str:
    difference = "differs from Google's"
    if ahead_seconds is not None and abs(ahead_seconds) > 60:
        side = "ahead of" if ahead_seconds > 0 else "behind"
        difference = f"is {abs(ahead_seconds)} seconds {side} Google's"
    return (
        f"This machine's clock {difference}, so Google refuses what it signs (Invalid JWT): "
        "correct the clock; `timedatectl` shows it and whether it is synchronized."
    )


def quoted(text: str) -> str:
    """Words of somebody else, as one short line."""
    return " ".join(text.split()).rstrip(".")[:200]


# What the network says


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and all that it was made of."""
    while error is not None:
        yield error
        inner = [part for part in (*error.args, getattr(error, "reason", None)) if isinstance(part, BaseException)]
        error = inner[0] if inner else error.__cause__ or error.__context__


def reason(error: BaseException) -> str:
    """Why there was no answer, in a few words."""
    chain = list(causes(error))
    proxy = "at the proxy: " if any(isinstance(part, requests.exceptions.ProxyError) for part in chain) else ""
    if any(isinstance(part, socket.gaierror) for part in chain):
        return f"{proxy}name can't be resolved"
    if any(isinstance(part, ConnectionRefusedError) for part in chain):
        return f"{proxy}connection refused"
    if any(isinstance(part, (TimeoutError, requests.Timeout)) for part in chain):
        return f"{proxy}no answer in time"
    return proxy + quoted(getattr(chain[-1], "strerror", None) or str(chain[-1]))


def unreachable(error: BaseException) -> str:
    """Why Google could not be asked."""
    chain = list(causes(error))
    asked = next((part.request for part in chain if getattr(part, "request", None) is not None), None)
    host = urlsplit(asked.url).hostname if asked is not None else "Google"
    certificate = next((part for part in chain if isinstance(part, ssl.SSLCertVerificationError)), None)
    if certificate is not None:
        dated = "expired" in certificate.verify_message or "not yet valid" in certificate.verify_message
        hint = ", or correct its clock (`timedatectl` shows it)" if dated else ""
        return (
            f"The certificate of {host} is not trusted ({certificate.verify_message}): set mlflow_ca_bundle to the "
            f"certificates that this machine's network needs{hint}."
        )
    if any(isinstance(part, requests.exceptions.SSLError) for part in chain):
        return f"No TLS connection to {host} ({reason(error)}): look at proxies, or set mlflow_ca_bundle."
    if not isinstance(error, requests.RequestException) and "CA certificate" in str(error):
        return f"{quoted(str(error))}: set mlflow_ca_bundle to a file that exists."
    return (
        f"{host} can't be reached ({reason(error)}): let this machine reach it on port 443, or name the proxy by "
        "HTTPS_PROXY in mlflow_environment."
    )


# What the bucket says


def use_bucket(client: storage.Client, bucket: str, folder: str, identity: str) -> None:
    """Write an object, read it back and delete it."""
    name = "/".join(filter(None, [folder, ".mlflow-preflight", secrets.token_hex(16)]))
    content = secrets.token_bytes(64)
    once: dict[str, Any] = {"timeout": TIMEOUT_SECONDS, "retry": None}
    try:
        blob = client.bucket(bucket).blob(name)
    except ValueError as error:
        raise GoogleError(
            f"gs://{bucket} is no bucket ({quoted(str(error))}): set mlflow_artifacts_location."
        ) from None
    with explained("write", bucket, identity):
        blob.upload_from_string(content, "application/octet-stream", **once)
    try:
        with explained("read", bucket, identity):
            back = blob.download_as_bytes(**once)
        if back != content:
            raise GoogleError(f"gs://{bucket} gave back other bytes than were written: look what stands before Google.")
    except BaseException:
        with contextlib.suppress(Exception):  # the error under way says more
            blob.delete(**once)
        raise
    with explained("delete", bucket, identity, f", and gs://{bucket}/{name} was left behind"):
        blob.delete(**once)


@contextlib.contextmanager
def explained(action: str, bucket: str, identity: str, more: str = "") -> Iterator[None]:
    """Turn what Google's library raises into a GoogleError."""
    try:
        yield
    except GoogleAPICallError as error:
        raise GoogleError(refused(error, action, bucket, identity, more)) from None
    except google.auth.exceptions.RefreshError as error:
        raise GoogleError(f"Google did not renew the token of {identity} ({quoted(str(error.args[0]))}).") from None
    except (OSError, google.auth.exceptions.TransportError) as error:
        raise GoogleError(unreachable(error)) from None


def refused(error: GoogleAPICallError, action: str, bucket: str, identity: str, more: str) -> str:
    said = google_words(error)
    if error.code == 404 and action == "write":
        return (
            f"There is no bucket gs://{bucket}: create it, or set mlflow_artifacts_location to the one that exists "
            "(folders go to mlflow_artifacts_folder)."
        )
    if error.code == 403 and "scope" in said.lower():
        return missing_scopes(identity)
    permission = re.search(r"storage\.objects\.[a-z]+", said)
    if error.code == 403 and permission:
        return (
            f"{identity} may not {action} objects in gs://{bucket}, it lacks the permission {permission[0]}{more}: "
            "grant it the role roles/storage.objectUser on the bucket, or set mlflow_artifacts_location to another one."
        )
    return (
        f"Google refused to let {identity} {action} an object in gs://{bucket} with {error.code} ({quoted(said)})"
        f"{more}: look at the bucket's rules, or set mlflow_artifacts_location to another one."
    )


def google_words(error: GoogleAPICallError) -> str:
    """The message in Google's JSON; the library's own text repeats address and body."""
    try:
        return str(error.response.json()["error"]["message"])
    except (AttributeError, ValueError, KeyError, TypeError):
        return str(error.message)
