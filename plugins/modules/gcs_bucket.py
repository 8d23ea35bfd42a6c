#!/usr/bin/python
# Copyright the authors of this repository
# SPDX-License-Identifier: Apache-2.0
"""What a bucket needs and google.cloud.gcp_storage_bucket has no option for."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gcs_bucket
short_description: Who may use a bucket of Cloud Storage, how long what is deleted there can be had back, and its end
description:
  - C(google.cloud) has modules for a bucket and for its old access lists. With uniform bucket-level access, as new
    buckets have it, only the bucket's IAM policy counts, for which there is none; nor is there one that sets soft
    delete or deletes a bucket that has objects.
  - It runs on the control node and takes the credentials of C(google.cloud)'s modules, from the same options and
    environment variables.
options:
  name:
    description: The bucket's name.
    type: str
    required: true
  state:
    description:
      - With V(present), the bucket has to exist and gets what O(member), O(role) and O(undelete_days) say.
      - With V(absent), it is deleted with every version of every object.
      - With V(read), it is looked at only.
    type: str
    choices: [present, absent, read]
    default: present
  member:
    description: Who gets the role, such as C(serviceAccount:mlflow@my-project.iam.gserviceaccount.com).
    type: str
  role:
    description: A role, such as C(roles/storage.objectUser). Other members and roles stay as they are.
    type: str
  undelete_days:
    description: Days for which a deleted object can be had back (soft delete), 7 to 90; 0 turns that off.
    type: int
extends_documentation_fragment: [google.cloud.gcp]
author: The authors of this repository
"""

EXAMPLES = r"""
- name: Let the servers use the objects
  mlops.mlflow.gcs_bucket:
    name: my-bucket
    member: serviceAccount:mlflow@my-project.iam.gserviceaccount.com
    role: roles/storage.objectUser
    undelete_days: 30
    project: my-project
    auth_kind: application
"""

RETURN = r"""
bucket:
  description: What Cloud Storage said of the bucket before any change; empty where it does not exist.
  returned: always
  type: dict
"""

from urllib.parse import quote

from ansible_collections.google.cloud.plugins.module_utils.gcp_utils import GcpModule, GcpSession

try:
    from google.auth.exceptions import GoogleAuthError
    from requests import RequestException
except ImportError:  # GcpSession says so
    GoogleAuthError = RequestException = OSError

SCOPES = ["https://www.googleapis.com/auth/cloud-platform"]
DAY_SECONDS = 86400
ATTEMPTS = 5  # where somebody else changes the policy at the same moment


class Refused(Exception):
    """An answer of Google's that is not a success; the text is Google's."""


class Bucket:
    """A bucket by the JSON API. Source: https://cloud.google.com/storage/docs/json_api/v1."""

    def __init__(self, module: GcpModule) -> None:
        self.address = "https://storage.googleapis.com/storage/v1/b/" + quote(module.params["name"], safe="")
        self.session = GcpSession(module, "storage").session()

    def ask(self, method: str, path: str = "", missing: tuple[int, ...] = (), **options) -> dict | None:
        """The answer, or None where its status is one of those that mean that there is nothing."""
        answer = self.session.request(method, self.address + path, timeout=60, **options)
        if answer.status_code in missing:
            return None
        if not answer.ok:
            try:
                said = answer.json()["error"]["message"]
            except (ValueError, KeyError, TypeError):
                said = "status %d" % answer.status_code
            raise Refused(said)
        return answer.json() if answer.content else {}

    def read(self) -> dict:
        return self.ask("GET", missing=(404,)) or {}

    def grant(self, member: str, role: str, check: bool) -> bool:
        """Give a member a role; whether it lacked it. A policy that has changed meanwhile is read again."""
        for _ in range(ATTEMPTS):
            policy = self.ask("GET", "/iam", params={"optionsRequestedPolicyVersion": 3})
            bindings = policy.setdefault("bindings", [])
            unconditional = [each for each in bindings if each["role"] == role and not each.get("condition")]
            if any(member in each["members"] for each in unconditional):
                return False
            if not unconditional:
                unconditional = [{"role": role, "members": []}]
                bindings.extend(unconditional)
            unconditional[0]["members"].append(member)
            if check or self.ask("PUT", "/iam", missing=(412,), json=policy) is not None:
                return True
        raise Refused("its policy was changed by somebody else each time")

    def keep_deleted(self, known: dict, days: int, check: bool) -> bool:
        """Have deleted objects kept for so many days; whether that was otherwise."""
        seconds = days * DAY_SECONDS
        if int(known.get("softDeletePolicy", {}).get("retentionDurationSeconds", 0)) == seconds:
            return False
        if not check:
            self.ask("PATCH", json={"softDeletePolicy": {"retentionDurationSeconds": str(seconds)}})
        return True

    def delete(self) -> None:
        """Delete every version of every object, then the bucket. Whatever else deletes there does no harm."""
        while items := self.ask("GET", "/o", params={"versions": "true", "maxResults": 1000}).get("items"):
            for item in items:
                path = "/o/" + quote(item["name"], safe="")
                self.ask("DELETE", path, missing=(404,), params={"generation": item["generation"]})
        self.ask("DELETE", missing=(404,))


def apply(module: GcpModule, bucket: Bucket) -> tuple[bool, dict]:
    """Whether anything is changed, and what was known of the bucket before."""
    wanted, check = module.params, module.check_mode
    known = bucket.read()
    if wanted["state"] == "absent" and known and not check:
        bucket.delete()
    if wanted["state"] != "present":
        return wanted["state"] == "absent" and bool(known), known
    if not known:
        if check:  # whoever makes it has not made it
            return True, known
        raise Refused("The specified bucket does not exist.")
    changed = [bucket.grant(wanted["member"], wanted["role"], check)] if wanted["role"] else []
    if wanted["undelete_days"] is not None:
        changed.append(bucket.keep_deleted(known, wanted["undelete_days"], check))
    return any(changed), known


def main() -> None:
    module = GcpModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent", "read"], "default": "present"},
            "member": {"type": "str"},
            "role": {"type": "str"},
            "undelete_days": {"type": "int"},
        },
        required_together=[["member", "role"]],
        supports_check_mode=True,
    )
    module.params["scopes"] = module.params["scopes"] or SCOPES
    try:
        changed, known = apply(module, Bucket(module))
    except Refused as error:
        module.fail_json(msg="Google refuses for gs://%s: %s" % (module.params["name"], error))
    except (GoogleAuthError, RequestException) as error:
        module.fail_json(msg="Google can't be asked about gs://%s: %s" % (module.params["name"], error))
    module.exit_json(changed=changed, bucket=known)


if __name__ == "__main__":
    main()
