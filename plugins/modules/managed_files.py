#!/usr/bin/python
# Copyright the authors of this repository
# SPDX-License-Identifier: Apache-2.0
"""Write a set of folders and files in one trip, have services take them up, and remember what they replaced."""

from __future__ import annotations

DOCUMENTATION = r"""
module: managed_files
short_description: Write a set of folders and files in one trip, have services take them up, with a way back
description:
  - Creates folders, writes, copies and removes files, each atomically, with owner, group and mode.
  - What a run replaces is kept in I(rollback_dir) until it is settled, and so is the knowledge that
    it has not been taken up yet, even when the run is killed half-way.
  - A file's secret content is never shown, neither in a diff nor in the output.
  - Where others than root can write, no link is followed; what is a link there, or a hard link, or belongs to somebody
    who has no business there, is refused, and nothing after it is written.
  - One run at a time; others wait for the lock beside I(rollback_dir).
  - With I(services), all of it happens in one call. The files are checked by I(validate) before they take the place of
    others, the services take them up and have to show that they have, and the files are settled. Where a service does
    not, the files from before are put back and it goes by them again; a unit that did not run with them is stopped.
  - A run that is killed at any moment leaves knowledge in I(rollback_dir) of what the services may not go by yet. The
    next run has them take it up, also where it finds every file right.
  - Check mode says what would change, a service that would take up files included. It runs no I(validate).
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
  validate:
    description:
      - Commands that look at the files before those take the place of others; none may change anything. The first that
        fails ends the call, and no file has changed then. They run only where something is to be taken up.
      - What they look at are copies with the same owner, group and mode. The path of an entry stands for that of its
        copy, in I(command) and in the content of the copies.
    type: list
    elements: dict
    default: []
    suboptions:
      command:
        description: The command and its arguments.
        type: list
        elements: str
        required: true
      stdin:
        description: What it reads on its standard input.
        type: str
        default: ""
      quiet_codes:
        description: Exit codes other than 0, C(-N) for a signal, that are good where it has printed nothing.
        type: list
        elements: int
        default: []
      strip:
        description: Regular expression of what is left out of each line that it prints.
        type: str
        default: ^$
  services:
    description: Services that go by the files, in the order in which they take them up.
    type: list
    elements: dict
    default: []
    suboptions:
      unit:
        description:
          - Its unit in systemd, which is started where it is not active. Where files below C(/etc/systemd/system) have
            changed, systemd reads its units anew before.
          - A service without a unit counts as one that runs, and is only told by I(reload).
        type: str
        default: ""
      enabled:
        description: Have the unit start at every boot.
        type: bool
        default: false
      restart_for:
        description: Paths of files that only a restart takes up.
        type: list
        elements: path
        default: []
      reload_for:
        description: Paths of files that it takes up while it runs; without it, all other entries.
        type: list
        elements: path
      reload:
        description: Command that has it read its files; without it, C(systemctl reload).
        type: list
        elements: str
        default: []
      stdin:
        description: What I(reload) reads on its standard input.
        type: str
        default: ""
      due:
        description: Have it take up the files in any case, because it has been seen to go by others.
        type: bool
        default: false
      answers:
        description: >-
          What is asked of it, one after the other and each until it answers, before it counts as going by the files.
          Exactly one of I(command), I(socket), I(address) and I(listens).
        type: list
        elements: dict
        default: []
        suboptions:
          command:
            description: Command that ends with 0.
            type: list
            elements: str
          stdin:
            description: What I(command) reads on its standard input.
            type: str
            default: ""
          socket:
            description: Path of a Unix socket that answers.
            type: path
          send:
            description: What is said on I(socket).
            type: str
            default: ""
          address:
            description: C(host:port), IPv6 in brackets, where TCP connections are accepted.
            type: str
          listens:
            description: TCP port on which any process of the machine listens, whatever the address.
            type: int
          expect:
            description: Regular expression that is found in the answer; C(^) and C($) match at each line.
            type: str
            default: ""
          seconds:
            description: How long it may take, in seconds.
            type: int
            default: 20
          otherwise:
            description: Reason of the failure where it takes longer.
            type: str
            required: true
      reason:
        description: >-
          Regular expression for lines of the unit's journal. Where the service does not take up the files, the last
          such line since then is the reason.
        type: str
        default: ""
  invalid:
    description: >-
      Message of the failure where I(validate) fails, with C({reason}) for what it printed; without it, I(taken_back).
    type: str
  taken_back:
    description: Message of the failure where a service does not take up the files, with C({reason}) for why.
    type: str
    default: "The new files were not taken up, so that those from before are in place again: {reason}"
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

- name: Have Prometheus go by its configuration
  mlops.mlflow.managed_files:
    rollback_dir: /var/lib/prometheus-rollback
    entries:
      - {path: /etc/default/prometheus, content: "{{ arguments }}", mode: "0644"}
      - {path: /etc/prometheus/prometheus.yml, content: "{{ configuration }}", mode: "0644"}
    validate:
      - command: [promtool, check, config, /etc/prometheus/prometheus.yml]
    services:
      - unit: prometheus.service
        enabled: true
        restart_for: [/etc/default/prometheus]
        answers:
          - {address: "127.0.0.1:9090", seconds: 30, otherwise: it does not listen}
"""

RETURN = r"""
pending:
  description: Files that have been replaced since I(rollback_dir) was last settled.
  returned: always
  type: list
  elements: str
services:
  description: By their units, C(restarted), C(reloaded) or nothing, for what they did, or would do.
  returned: with I(services)
  type: dict
"""

import contextlib
import grp
import os
import pwd
import secrets
import stat

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mlops.mlflow.plugins.module_utils import files, rollback, services


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


def apply_folder(entry, before, wanted, dry):
    if before == wanted:
        return None
    if not dry:
        files.make_folder(entry["path"], *wanted)
    return difference(entry, "(folder, other owner or mode)\n" if before else "", "(folder)\n")


def apply_removal(entry, keep, dry):
    path = entry["path"]
    if files.kind(path) is None:
        return None
    keep(path)
    if not dry:
        files.remove(path)
    return {"prepared": "%s: removed\n" % path}


def apply(entry, keep, dry):
    """Bring one folder or file into its state, or only look; returns its diff, or None where it was right."""
    if entry["state"] == "absent":
        return apply_removal(entry, keep, dry)
    wanted = wanted_attributes(entry)
    before, attributes = present(entry["path"], wanted[:1])
    content = wanted_content(entry, before)
    if content is None:
        return apply_folder(entry, attributes, wanted, dry)
    if before == content and attributes == wanted:
        return None
    keep(entry["path"])
    if not dry:
        files.write(entry["path"], content, *wanted)
    return difference(entry, (before or b"").decode("utf-8", "replace"), content.decode("utf-8", "replace"))


def apply_all(entries, keep, dry):
    """The diffs of all entries that were not right."""
    return [diff for diff in [apply(entry, keep, dry) for entry in entries] if diff]


@contextlib.contextmanager
def staged(entries, folder):
    """Copies of the files as they are to be, while the block lasts; by the path of each, that of its copy."""
    contents = {}
    for entry in entries:
        if entry["state"] == "present":
            wanted = wanted_attributes(entry)
            before, _ = present(entry["path"], wanted[:1])
            content = wanted_content(entry, before)
            if content is not None:
                contents[entry["path"]] = (content, *wanted)
    copies = {path: folder + path for path in contents}
    try:
        for path, (content, *wanted) in contents.items():
            for above in reversed(files.ancestors(copies[path])):
                if (above + "/").startswith(folder + "/"):  # so that a validator without root's rights gets there
                    files.make_folder(above, os.geteuid(), os.getegid(), 0o711)
            text = content.decode("utf-8", "surrogateescape")
            files.write(copies[path], services.renamed(text, copies).encode("utf-8", "surrogateescape"), *wanted)
        yield copies
    finally:
        files.remove(folder)


def write(module, kept):
    """Write the entries, and keep what they replace."""
    would_be_kept = set()
    keep = would_be_kept.add if module.check_mode else kept.keep
    diffs = apply_all(module.params["entries"], keep, module.check_mode)
    pending = sorted({*kept.replaced(), *would_be_kept})
    return {"changed": bool(diffs), "diff": diffs, "pending": pending}


def write_and_take_up(module, kept):
    """The same, and have the services go by them, or by those from before; fails with the sentence that says why."""
    asked, entries = module.params, module.params["entries"]
    would_be_kept = set()
    if not module.check_mode:
        files.remove(kept.staged)  # of a run that was killed
    diffs = apply_all(entries, would_be_kept.add, dry=True)
    pending = {*kept.replaced(), *would_be_kept}
    them = [services.Service(each, pending) for each in asked["services"]]
    changed = bool(diffs or pending) or any(each.action or each.becomes_enabled for each in them)
    result = {"changed": changed, "diff": diffs, "services": {each.unit: each.action for each in them}}
    if module.check_mode or not changed:
        return {**result, "pending": sorted(pending)}
    try:
        if pending or any(each.action for each in them):
            with staged(entries, kept.staged) as copies:
                services.check(asked["validate"], copies)
    except services.Trouble as trouble:
        module.fail_json(msg=(asked["invalid"] or asked["taken_back"]).replace("{reason}", str(trouble)))
    ran = kept.ran([each.unit for each in them if each.active])
    apply_all(entries, kept.keep, dry=False)
    try:
        services.take_up(them, pending)
    except services.Trouble as trouble:
        kept.put_back()
        wrong = services.go_back(them, pending, ran, str(trouble))
        if wrong:  # so that the next run tries again
            msg = "The files from before are in place again, but not in use: %s; what came first: %s"
            module.fail_json(msg=msg % (wrong, trouble))
        kept.settle()
        module.fail_json(msg=asked["taken_back"].replace("{reason}", str(trouble)))
    kept.settle()
    return {**result, "pending": []}


def leave(module, kept):
    """Put back what was replaced, or only forget it."""
    changed = bool(kept.replaced())
    if not module.check_mode:
        if module.params["state"] == "restored":
            kept.put_back()
        kept.settle()
    return {"changed": changed, "pending": sorted(kept.replaced())}


VALIDATE = {
    "command": {"type": "list", "elements": "str", "required": True},
    "stdin": {"type": "str", "default": ""},
    "quiet_codes": {"type": "list", "elements": "int", "default": []},
    "strip": {"type": "str", "default": "^$"},
}
ANSWER = {
    "command": {"type": "list", "elements": "str"},
    "stdin": {"type": "str", "default": ""},
    "socket": {"type": "path"},
    "send": {"type": "str", "default": ""},
    "address": {"type": "str"},
    "listens": {"type": "int"},
    "expect": {"type": "str", "default": ""},
    "seconds": {"type": "int", "default": 20},
    "otherwise": {"type": "str", "required": True},
}
WAYS = ["command", "socket", "address", "listens"]
SERVICE = {
    "unit": {"type": "str", "default": ""},
    "enabled": {"type": "bool", "default": False},
    "restart_for": {"type": "list", "elements": "path", "default": []},
    "reload_for": {"type": "list", "elements": "path"},
    "reload": {"type": "list", "elements": "str", "default": []},
    "stdin": {"type": "str", "default": ""},
    "due": {"type": "bool", "default": False},
    "answers": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": ANSWER,
        "mutually_exclusive": [WAYS],
        "required_one_of": [WAYS],
    },
    "reason": {"type": "str", "default": ""},
}
ENTRY = {
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
}


def main():
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "restored", "settled"], "default": "present"},
            "rollback_dir": {"type": "path", "required": True},
            "entries": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": ENTRY,
                "mutually_exclusive": [["content", "secret", "random", "copy_of"]],
            },
            "validate": {"type": "list", "elements": "dict", "default": [], "options": VALIDATE},
            "services": {"type": "list", "elements": "dict", "default": [], "options": SERVICE},
            "invalid": {"type": "str"},
            "taken_back": {
                "type": "str",
                "default": "The new files were not taken up, so that those from before are in place again: {reason}",
            },
        },
        supports_check_mode=True,
    )
    do = leave if module.params["state"] != "present" else write_and_take_up if module.params["services"] else write
    kept = rollback.Folder(module.params["rollback_dir"])
    with contextlib.nullcontext() if module.check_mode else kept.held():
        try:
            result = do(module, kept)
        except files.Refusal as refusal:
            module.fail_json(msg=str(refusal))
        except OSError as error:
            module.fail_json(msg="%s can't be read or written: %s." % (error.filename or "A file", error.strerror))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
