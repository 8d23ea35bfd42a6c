"""Compute Engine, service accounts and the buckets themselves, as inventories/gce and playbooks/gce.yml ask for them.

It keeps what it is told to make, and refuses what Google refuses, in Google's words: strangers, tokens without the
scope, identities without the permission, projects and machines that do not exist, filters that it can't read.
Source: https://cloud.google.com/compute/docs/reference/rest/v1.
"""

import json
import re
import secrets
from dataclasses import dataclass, field
from typing import Any

from aiohttp import ClientSession, web

COMPUTE = "https://www.googleapis.com/compute/v1/"  # what links begin with, whatever host was asked
PATHS = {
    "aggregated": re.compile(r"/compute/v1/projects/([^/]+)/aggregated/instances"),
    "operation": re.compile(r"/compute/v1/projects/([^/]+)/(global|zones/[^/]+)/operations/([^/]+)"),
    "compute": re.compile(
        r"/compute/v1/(projects/[^/]+/(?:global|zones/[^/]+))/(firewalls|instances|disks)(?:/([^/]+))?(?:/(\w+))?"
    ),
    "accounts": re.compile(r"/v1/projects/([^/]+)/serviceAccounts(?:/([^/]+))?"),
}
BUCKET_PATH = re.compile(r"/storage/v1/b(?:/([^/]+))?(/iam)?")
TERM = re.compile(r"\(?\s*([\w.]+)\s*(=|:\*)\s*([\w.-]*)\s*\)?")
VERBS = {"GET": "get", "POST": "create", "DELETE": "delete", "PATCH": "update", "PUT": "update"}
SCOPES = {"cloud-platform", "compute"}
READ_SCOPES = {*SCOPES, "cloud-platform.read-only", "compute.readonly"}


class Refused(Exception):
    """An answer that is not a success, in Google's words.

    Args:
        status: HTTP's.
        reason: Google's word for it.
        message: Google's sentence.
    """

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        details = [{"message": message, "domain": "global", "reason": reason}]
        body = {"error": {"code": status, "message": message, "errors": details}}
        self.answer = web.json_response(body, status=status)


def matches(resource: dict, query: str) -> bool:
    """Whether a resource passes a filter of ``(field = value)`` and ``(field:*)``; ValueError where it is no such one.

    Source: https://google.aip.dev/160, of which Compute Engine knows more.
    """
    rest, terms = TERM.subn("", query)
    if rest.strip():
        raise ValueError(query)
    found = [TERM.fullmatch(part[0]) for part in re.finditer(TERM, query)]
    assert len(found) == terms
    return all(
        (value := look_up(resource, term[1])) is not None and (term[2] == ":*" or str(value) == term[3])
        for term in found
    )


def look_up(resource: Any, path: str) -> Any:
    for name in path.split("."):
        resource = resource.get(name) if isinstance(resource, dict) else None
    return resource


@dataclass
class Cloud:
    """Projects and what is in them, beside what `server.State` knows."""

    projects: set[str] = field(default_factory=lambda: {"stand-in"})
    zones: tuple[str, ...] = ("europe-west3-a", "europe-west3-b", "us-central1-a")
    page_size: int = 500
    resources: dict[str, dict] = field(default_factory=dict)  # by the part of its link behind COMPUTE
    operations: dict[str, dict] = field(default_factory=dict)
    accounts: dict[str, dict] = field(default_factory=dict)
    buckets: dict[str, dict] = field(default_factory=dict)
    policies: dict[str, dict] = field(default_factory=dict)
    addresses: int = 1

    def fill(self, zone: str, machine: dict) -> None:
        """Have a machine as somebody else may have made it; ``machine`` is the API's resource, or a part of it."""
        (project,) = self.projects
        self.insert(f"projects/{project}/zones/{zone}", "instances", machine)

    def insert(self, where: str, kind: str, resource: dict) -> str:
        """Make a resource of what was asked for and what Google adds. Returns its path."""
        path = f"{where}/{kind}/{resource['name']}"
        resource = resource | {"id": str(10**18 + secrets.randbelow(10**18)), "selfLink": COMPUTE + path}
        resource["kind"] = f"compute#{kind.removesuffix('s')}"
        if kind != "firewalls":
            resource |= {"zone": COMPUTE + where, "labelFingerprint": secrets.token_urlsafe(8)}
        if kind == "disks":
            resource |= {"sizeGb": str(resource["sizeGb"]), "status": "READY", "users": []}
            resource["type"] = resource["type"].replace("https://compute.googleapis.com/compute/v1/", COMPUTE)
        if kind == "instances":
            resource = {
                "status": "RUNNING",
                "tags": {},
                "metadata": {},
                "machineType": f"{COMPUTE}{where}/machineTypes/x",
            } | resource
            for interface in resource.setdefault("networkInterfaces", [{"accessConfigs": [{}]}]):
                self.addresses += 1
                # On the loopback device, so that no test that goes astray leaves the machine.
                interface |= {"networkIP": f"127.0.10.{self.addresses}", "name": "nic0"}
                for config in interface.get("accessConfigs", []):
                    config["natIP"] = f"127.0.203.{self.addresses}"
            for disk in resource.get("disks", []):
                self.resources[disk["source"].removeprefix(COMPUTE)]["users"].append(resource["selfLink"])
        self.resources[path] = resource
        return path

    def delete(self, path: str) -> None:
        gone = self.resources.pop(path)
        for disk in gone.get("disks", []):
            source = disk["source"].removeprefix(COMPUTE)
            self.resources[source]["users"].remove(gone["selfLink"])
            if disk.get("autoDelete"):
                del self.resources[source]

    def operation(self, where: str, target: str) -> web.Response:
        """What a change is answered with: it goes on for a while."""
        name = f"operation-{secrets.token_hex(8)}"
        done = {"kind": "compute#operation", "name": name, "status": "DONE", "targetLink": COMPUTE + target}
        self.operations[f"{where}/operations/{name}"] = done
        return web.json_response(done | {"status": "RUNNING"})


class Compute:
    """The JSON APIs of Compute Engine, IAM and, for buckets without their objects, Cloud Storage.

    Args:
        state: `server.State`: tokens, permissions, service accounts.
        backend: talks to fake-gcs-server.
        storage: its address.
    """

    def __init__(self, state: Any, backend: ClientSession, storage: str) -> None:
        self.state = state
        self.backend = backend
        self.storage = storage

    @property
    def cloud(self) -> Cloud:
        return self.state.cloud

    async def answer(self, request: web.Request) -> web.Response | None:
        """The answer, or None where the address is not one of these."""
        try:
            return await self.find_answer(request)
        except Refused as refusal:
            return refusal.answer

    async def find_answer(self, request: web.Request) -> web.Response | None:
        if request.host == "storage.googleapis.com":
            path = BUCKET_PATH.fullmatch(request.path)
            return await self.bucket(request, path[1], bool(path[2])) if path else None
        for name, pattern in PATHS.items():
            if found := pattern.fullmatch(request.path):
                return await getattr(self, name)(request, *found.groups())
        return None

    def admit(self, request: web.Request, permission: str, project: str = "") -> None:
        """Refuse whoever may not do this."""
        token = self.state.tokens.get(request.headers.get("Authorization", "").removeprefix("Bearer "))
        if token is None or token.expires < self.state.now():
            raise Refused(401, "authError", "Request had invalid authentication credentials.")
        request["record"]["identity"] = token.identity
        reading = permission.endswith((".get", ".list", ".getIamPolicy"))
        if not {scope.rpartition("/auth/")[2] for scope in token.scopes} & (READ_SCOPES if reading else SCOPES):
            raise Refused(403, "insufficientPermissions", "Request had insufficient authentication scopes.")
        if project and project not in self.cloud.projects:
            raise Refused(404, "notFound", f"The resource 'projects/{project}' was not found")
        if permission not in self.state.permissions.get(token.identity, ()):
            raise Refused(
                403, "forbidden", f"Required '{permission}' permission for 'projects/{project or 'stand-in'}'"
            )

    async def aggregated(self, request: web.Request, project: str) -> web.Response:
        """The machines of all zones, page by page. Every page names every zone, as Google's do."""
        self.admit(request, "compute.instances.list", project)
        try:
            found = self.find(f"projects/{project}/zones/", "instances", request.query.get("filter", ""))
        except ValueError as error:
            said = f"Invalid value for field 'filter': '{error}'. Invalid list filter expression."
            raise Refused(400, "invalid", said) from error
        first = int(request.query.get("pageToken", "0"))
        page = found[first : first + self.cloud.page_size]
        items = {}
        for zone in self.cloud.zones:
            here = [each for each in page if each["zone"].endswith("/" + zone)]
            nothing = {
                "code": "NO_RESULTS_ON_PAGE",
                "message": f"There are no results for scope 'zones/{zone}' on this page.",
            }
            items[f"zones/{zone}"] = {"instances": here} if here else {"warning": nothing}
        more = {"nextPageToken": str(first + len(page))} if first + len(page) < len(found) else {}
        return web.json_response({"kind": "compute#instanceAggregatedList", "items": items} | more)

    def find(self, where: str, kind: str, query: str) -> list[dict]:
        return [
            each
            for path, each in sorted(self.cloud.resources.items())
            if path.startswith(where) and path.split("/")[-2] == kind and matches(each, query)
        ]

    async def operation(self, request: web.Request, project: str, where: str, name: str) -> web.Response:
        kind = "globalOperations" if where == "global" else "zoneOperations"
        self.admit(request, f"compute.{kind}.get", project)
        return web.json_response(self.cloud.operations[f"projects/{project}/{where}/operations/{name}"])

    async def compute(
        self, request: web.Request, where: str, kind: str, name: str | None, action: str | None
    ) -> web.Response:
        """Firewall rules, machines and disks."""
        verb = action or ("list" if request.method == "GET" and name is None else VERBS[request.method])
        self.admit(request, f"compute.{kind}.{verb}", where.split("/")[1])
        if verb == "list":
            found = self.find(where + "/", kind, request.query.get("filter", ""))
            return web.json_response({"kind": f"compute#{kind.removesuffix('s')}List", "items": found})
        body = json.loads(await request.read() or "{}")
        path = f"{where}/{kind}/{name or body['name']}"
        known = self.cloud.resources.get(path)
        if verb == "create":
            return self.create(where, kind, path, body)
        if known is None:
            raise Refused(404, "notFound", f"The resource '{path}' was not found")
        if verb == "get":
            return web.json_response(known)
        if verb == "delete" and known.get("users"):
            user = known["users"][0].removeprefix(COMPUTE)
            message = f"The disk resource '{path}' is already being used by '{user}'"
            raise Refused(400, "resourceInUseByAnotherResource", message)
        if verb == "delete":
            self.cloud.delete(path)
        elif verb == "update" and kind == "firewalls":
            known |= body
        elif verb == "setLabels":
            if body.get("labelFingerprint") != known["labelFingerprint"]:
                raise Refused(
                    412, "conditionNotMet", "Labels fingerprint either invalid or resource labels have changed"
                )
            known |= {"labels": body["labels"], "labelFingerprint": secrets.token_urlsafe(8)}
        else:
            raise Refused(501, "notImplemented", f"The stand-in can't {verb} {kind}.")
        return self.cloud.operation(where, path)

    def create(self, where: str, kind: str, path: str, body: dict) -> web.Response:
        if path in self.cloud.resources:
            raise Refused(409, "alreadyExists", f"The resource '{path}' already exists")
        for account in body.get("serviceAccounts", []):
            if account["email"] not in self.cloud.accounts:
                raise Refused(
                    404, "notFound", f"The resource '{account['email']}' of type 'serviceAccount' was not found."
                )
        for disk in body.get("disks", []):
            if disk["source"].removeprefix(COMPUTE) not in self.cloud.resources:
                raise Refused(404, "notFound", f"The resource '{disk['source'].removeprefix(COMPUTE)}' was not found")
        if kind == "disks" and not re.fullmatch(
            r"projects/[\w-]+/global/images/(family/)?[\w-]+", body.get("sourceImage", "")
        ):
            raise Refused(
                400, "invalid", f"Invalid value for field 'resource.sourceImage': '{body.get('sourceImage')}'."
            )
        return self.cloud.operation(where, self.cloud.insert(where, kind, body))

    async def accounts(self, request: web.Request, project: str, email: str | None) -> web.Response:
        """Service accounts. Source: https://cloud.google.com/iam/docs/reference/rest/v1/projects.serviceAccounts."""
        verb = "list" if request.method == "GET" and email is None else VERBS[request.method]
        self.admit(request, f"iam.serviceAccounts.{verb}", project)
        if verb == "list":
            return web.json_response({"accounts": list(self.cloud.accounts.values())} if self.cloud.accounts else {})
        if verb == "create":
            body = json.loads(await request.read())
            email = f"{body['accountId']}@{project}.iam.gserviceaccount.com"
            names = {"name": f"projects/{project}/serviceAccounts/{email}", "email": email, "projectId": project}
            self.cloud.accounts[email] = names | {"displayName": body["serviceAccount"].get("displayName", "")}
        if email not in self.cloud.accounts:
            raise Refused(404, "notFound", f"Unknown service account: {email}")
        if verb == "delete":
            del self.cloud.accounts[email]
            return web.json_response({})
        return web.json_response(self.cloud.accounts[email])

    async def bucket(self, request: web.Request, name: str | None, iam: bool) -> web.Response:
        """Buckets and their IAM policies. Source: https://cloud.google.com/storage/docs/json_api/v1/buckets."""
        verb = {"GET": "getIamPolicy", "PUT": "setIamPolicy"}[request.method] if iam else VERBS[request.method]
        self.admit(request, f"storage.buckets.{verb}", request.query.get("project", ""))
        body = json.loads(await request.read() or "{}")
        if verb == "create":
            return await self.make_bucket(body)
        if name not in self.cloud.buckets:
            raise Refused(404, "notFound", "The specified bucket does not exist.")
        if iam:
            return self.policy(name, body if verb == "setIamPolicy" else None)
        if verb == "delete":
            async with self.backend.get(f"{self.storage}/storage/v1/b/{name}/o") as answer:
                if (await answer.json()).get("items"):
                    raise Refused(409, "conflict", "The bucket you tried to delete is not empty.")
            async with self.backend.delete(f"{self.storage}/storage/v1/b/{name}") as answer:
                answer.raise_for_status()
            del self.cloud.buckets[name], self.cloud.policies[name]
            self.state.buckets.discard(name)
            return web.Response(status=204)
        self.cloud.buckets[name] |= body
        return web.json_response(self.cloud.buckets[name])

    async def make_bucket(self, body: dict) -> web.Response:
        name = body["name"]
        if name in self.state.buckets:
            raise Refused(
                409, "conflict", "Your previous request to create the named bucket succeeded and you already own it."
            )
        async with self.backend.post(f"{self.storage}/storage/v1/b?project=stand-in", json={"name": name}) as answer:
            answer.raise_for_status()
        week = {"softDeletePolicy": {"retentionDurationSeconds": "604800"}}  # Google's default
        self.cloud.buckets[name] = (
            {"kind": "storage#bucket", "location": "US", "storageClass": "STANDARD"} | week | body
        )
        self.cloud.policies[name] = {
            "kind": "storage#policy",
            "version": 1,
            "etag": secrets.token_hex(4),
            "bindings": [],
        }
        self.state.buckets.add(name)
        return web.json_response(self.cloud.buckets[name])

    def policy(self, name: str, wanted: dict | None) -> web.Response:
        known = self.cloud.policies[name]
        if wanted is None:
            return web.json_response(known)
        if wanted.get("etag") != known["etag"]:
            raise Refused(412, "conditionNotMet", "At least one of the pre-conditions you specified did not hold.")
        for member in (member for each in wanted["bindings"] for member in each["members"]):
            kind, _, email = member.partition(":")
            if kind == "serviceAccount" and email not in self.cloud.accounts:
                raise Refused(400, "invalid", f"Service account {email} does not exist.")
        self.cloud.policies[name] = wanted | {"etag": secrets.token_hex(4)}
        return web.json_response(self.cloud.policies[name])
