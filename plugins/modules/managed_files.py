#!/usr/bin/python
# Copyright the authors of this repository
# SPDX-License-Identifier: Apache-2.0
"""Write a set of folders and files in one trip, and remember what they replaced."""

from __future__ import annotations

DOCUMENTATION = r"""
module: managed_files
short_description: Write a set of folders and files in one trip, with a way back
description:
  - Creates folders, writes, copies and removes files, each atomically, with owner, group and mode.
  - What a run replaces is kept in I(rollback_dir) until it is settled, and so is the knowledge that
    it has not been taken up yet, even when the run is killed half-way.
  - A file's secret content is never shown, neither in a diff nor in the output.
  - Where others than root can write, no link is followed; what is a link there, or a hard link, or belongs to somebody
    who has no business there, is refused, and nothing after it is written.
  - One run at a time; others wait for the lock beside I(rollback_dir).
options:
  state:
    description:
      - C(present) writes I(entries).
      - C(restored) puts back what I(rollback_dir) holds and forgets it.
      - C(settled) forgets what I(rollback_dir) holds, because the new files are in use.
    type: str
    choices: [present, restored, settled]
    default: present
  rollback_dir:
    description: Folder for what was replaced, only for root to read.
    type: path
    required: true
  entries:
    description: Folders and files, in the order in which they are made.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute path.
        type: path
        required: true
      state:
        description: C(absent) removes the file; C(present) makes it, or the folder where it has no content.
        type: str
        choices: [present, absent]
        default: present
      content:
        description: Text of the file.
        type: str
      secret:
        description: Text of the file where it holds secrets.
        type: str
      random:
        description: >-
          Length of a secret that is made on the machine, of random letters, digits, C(-) and C(_). A file that has
          a content keeps it.
        type: int
      renew:
        description: With I(random), give the file a new content even where it has one.
        type: bool
        default: false
      copy_of:
        description: Path of a file on the machine to take the content from, which counts as secret.
        type: path
      owner:
        description: Owner's name.
        type: str
        default: root
      group:
        description: Group's name.
        type: str
        default: root
      mode:
        description: Permissions in octal, such as C("0644").
        type: str
        required: true
author: The authors of this repository
"""

EXAMPLES = r"""
- name: Write the configuration
  mlops.mlflow.managed_files:
    rollback_dir: /etc/mlflow/rollback
    entries:
      - {path: /etc/mlflow, mode: "0755"}
      - {path: /etc/mlflow/mlflow.env, secret: "{{ environment_text }}", group: mlflow, mode: "0640"}
      - {path: /etc/mlflow/secrets/token, random: 48, group: mlflow, mode: "0640"}
"""

RETURN = r"""
pending:
  description: Files that have been replaced since I(rollback_dir) was last settled.
  returned: always
  type: list
  elements: str
"""

import contextlib
import grp
import os
import pwd
import secrets
import stat

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mlops.mlflow.plugins.module_utils import files, rollback


def present(path, owners=()):
    """Content and attributes of the file that is there, None for what is none; where nothing is, twice None."""
    kind = files.kind(path)
    if kind is not stat.S_ISREG:
        return None, kind and files.attributes(path)
    with files.opened(path, owners) as descriptor:
        found = os.fstat(descriptor)
        with os.fdopen(os.dup(descriptor), "rb") as file:
            return file.read(), (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode))


def wanted_attributes(entry):
    """Owner's and group's ids and the mode; ids are -1 where check mode has not made the account."""
    try:
        uid = pwd.getpwnam(entry["owner"]).pw_uid
        gid = grp.getgrnam(entry["group"]).gr_gid
    except KeyError:
        uid = gid = -1
    return uid, gid, int(entry["mode"], 8)


def random_text(length):
    """So many letters, digits, ``-`` and ``_`` from the machine's source of randomness."""
    return secrets.token_urlsafe(length)[:length]


def wanted_content(entry, before):
    """The bytes that a file should hold, given those that it holds now, if any; None for a folder."""
    if entry["random"]:
        return before if before and not entry["renew"] else random_text(entry["random"]).encode("ascii")
    for kind in ("content", "secret"):
        if entry[kind] is not None:
            return entry[kind].encode("utf-8")
    return files.read(entry["copy_of"]) if entry["copy_of"] else None


def difference(entry, before, after):
    """One entry of Ansible's diff; of a secret file only that it differs."""
    header = entry["path"]
    if entry["secret"] is not None or entry["random"] or entry["copy_of"]:
        return {"prepared": "%s: its content is secret and has changed\n" % header}
    return {"before_header": header, "after_header": header, "before": before, "after": after}


def apply_folder(module, entry, before, wanted):
    if before == wanted:
        return None
    if not module.check_mode:
        files.make_folder(entry["path"], *wanted)
    return difference(entry, "(folder, other owner or mode)\n" if before else "", "(folder)\n")


def apply_removal(module, entry, keep):
    path = entry["path"]
    if files.kind(path) is None:
        return None
    keep(path)
    if not module.check_mode:
        files.remove(path)
    return {"prepared": "%s: removed\n" % path}


def apply(module, entry, keep):
    """Bring one folder or file into its state; returns its diff, or None where it was right."""
    if entry["state"] == "absent":
        return apply_removal(module, entry, keep)
    wanted = wanted_attributes(entry)
    before, attributes = present(entry["path"], wanted[:1])
    content = wanted_content(entry, before)
    if content is None:
        return apply_folder(module, entry, attributes, wanted)
    if before == content and attributes == wanted:
        return None
    keep(entry["path"])
    if not module.check_mode:
        files.write(entry["path"], content, *wanted)
    return difference(entry, (before or b"").decode("utf-8", "replace"), content.decode("utf-8", "replace"))


def main():
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "restored", "settled"], "default": "present"},
            "rollback_dir": {"type": "path", "required": True},
            "entries": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "path": {"type": "path", "required": True},
                    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
                    "content": {"type": "str"},
                    "secret": {"type": "str", "no_log": True},
                    "random": {"type": "int"},
                    "renew": {"type": "bool", "default": False},
                    "copy_of": {"type": "path"},
                    "owner": {"type": "str", "default": "root"},
                    "group": {"type": "str", "default": "root"},
                    "mode": {"type": "str", "required": True},
                },
                "mutually_exclusive": [["content", "secret", "random", "copy_of"]],
            },
        },
        supports_check_mode=True,
    )
    result = {"changed": False}
    kept = rollback.Folder(module.params["rollback_dir"])
    with contextlib.nullcontext() if module.check_mode else kept.held():
        would_be_kept = set()
        keep = would_be_kept.add if module.check_mode else kept.keep
        try:
            if module.params["state"] == "present":
                diffs = [apply(module, entry, keep) for entry in module.params["entries"]]
                result["diff"] = [diff for diff in diffs if diff]
                result["changed"] = bool(result["diff"])
            else:
                result["changed"] = bool(kept.replaced())
                if not module.check_mode:
                    if module.params["state"] == "restored":
                        kept.put_back()
                    kept.settle()
            pending = {*kept.replaced(), *would_be_kept}
        except files.Refusal as refusal:
            module.fail_json(msg=str(refusal))
        except OSError as error:
            module.fail_json(msg="%s can't be read or written: %s." % (error.filename or "A file", error.strerror))
    module.exit_json(pending=sorted(pending), **result)


if __name__ == "__main__":
    main()
