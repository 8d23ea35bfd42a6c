#!/usr/bin/python
# Copyright the authors of this repository
# SPDX-License-Identifier: Apache-2.0
"""Take an MLflow installation off the machine, in one trip; keep its data, or delete them too."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlflow_removal
short_description: Remove an MLflow installation, whole or half, with or without its data
description:
  - Finds what there is of units, commands, releases, settings and the account, and removes it. What a killed
    run has left undone, the next one does.
  - Keeps the data (their folder, local artifacts, backups, secrets, a database on this machine's PostgreSQL)
    unless I(purge) is set.
  - In the releases' and the settings' folders it removes what the role makes, and says what else is there.
  - In check mode it says what it would remove.
options:
  purge:
    description: Delete the data too.
    type: bool
    default: false
  install_dir:
    description: Folder of the releases.
    type: path
    required: true
  config_dir:
    description: Folder of the settings.
    type: path
    required: true
  data_dir:
    description: Home of the service, with the SQLite database and artifacts.
    type: path
    required: true
  backup_dir:
    description: Folder of the backups.
    type: path
    required: true
  artifacts_dir:
    description: Folder of local artifacts; empty where they are elsewhere.
    type: path
    default: ""
  user:
    description: Account of the service. It goes where it is a system account whose home is I(data_dir).
    type: str
    required: true
  group:
    description: Group of the service. It goes with the account where nobody else is in it.
    type: str
    required: true
  units:
    description: Names of the role's units.
    type: list
    elements: str
    required: true
  files:
    description: Paths of files that the role writes, besides the units.
    type: list
    elements: path
    required: true
  database:
    description:
      - A database on this machine's PostgreSQL that is part of the data, with that of the accounts.
      - I(purge) drops those that I(owner) owns, and the user I(owner) where it owns nothing else.
    type: dict
    suboptions:
      name: {type: str, required: true, description: Name of the database.}
      auth: {type: str, default: "", description: Name of the database of the accounts.}
      owner: {type: str, required: true, description: The server's user that owns it.}
      port: {type: int, required: true, description: The server's port, which is part of its socket's name.}
author: The authors of this repository
"""

EXAMPLES = r"""
- name: Remove MLflow and keep its data
  mlops.mlflow.mlflow_removal:
    install_dir: /opt/mlflow
    config_dir: /etc/mlflow
    data_dir: /var/lib/mlflow
    backup_dir: /var/backups/mlflow
    user: mlflow
    group: mlflow
    units: [mlflow.socket, mlflow.service]
    files: [/usr/local/sbin/mlflow-admin, /etc/mlflow/mlflow.env]
"""

RETURN = r"""
removed:
  description: What was removed or, in check mode, would be; one phrase each.
  returned: success
  type: list
  elements: str
data:
  description: The data that are there; with I(purge) with their sizes. One phrase each.
  returned: success
  type: list
  elements: str
kept:
  description: What else stays, and why; one sentence each.
  returned: success
  type: list
  elements: str
"""

import contextlib
import errno
import fcntl
import fnmatch
import glob
import grp
import json
import os
import pwd
import re
import shutil
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mlops.mlflow.plugins.module_utils import files, rollback, sqlite
from ansible_collections.mlops.mlflow.plugins.module_utils.host import read

UNITS_DIR = "/etc/systemd/system"
STAMPS_DIR = "/var/lib/systemd/timers"  # where systemd notes when a timer with Persistent= last went off
# Names in the folders of the releases and of the settings that the role's runs and mlflow_service make.
INSTALLED = ("releases", "current", "previous", ".current.new", ".previous.new", "uv-*", ".build.lock")
CONFIGURED = ("rollback", "rollback.lock", ".rollback-settled", ".managed-*", ".*.change")
SECRETS = "secrets"  # folder of generated secrets below the settings; without them, data can't be read
BACKUP = re.compile(r"\d{8}T\d{6}Z-")  # how the name of a backup begins; see mlflow_service/backup
LOCK_TIMEOUT_SECONDS = 10.0
PROCESS_SECONDS = 3.0
SYSTEM_IDS = range(1, 1000)
CLOSED = 0o700
# A folder that holds one of these is no folder of ours.
SYSTEM_FOLDERS = """
/bin /boot /dev /etc/default /etc/ssl /etc/systemd/system /home /lib /lib64 /media /mnt /opt /proc /root /run/lock
/run/user /sbin /srv /sys /tmp /usr/bin /usr/lib /usr/local/bin /usr/local/lib /usr/local/sbin /usr/sbin /usr/share
/var/backups /var/cache /var/lib/dpkg /var/lib/rpm /var/lib/systemd /var/local /var/log /var/mail /var/spool /var/tmp
"""
# And neither is a folder in one of these.
SYSTEM_TREES = """
/bin /boot /dev /etc/ssl /etc/systemd /lib /lib64 /proc /sbin /sys /usr/bin /usr/lib /usr/sbin /usr/share
"""
POSTGRES = "postgres"  # superuser's account, of the system and of the server
POSTGRES_FACTS = """
SELECT json_build_object(
  'owner', pg_get_userbyid(d.datdba), 'bytes', pg_database_size(d.oid),
  'role', r.oid IS NOT NULL, 'super', coalesce(r.rolsuper, false),
  'others', (WITH mine AS (SELECT oid FROM pg_database WHERE datname IN (:'name', :'other') AND datdba = r.oid)
             SELECT count(*) FROM pg_shdepend s WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = r.oid
             AND s.dbid NOT IN (SELECT oid FROM mine)
             AND NOT (s.dbid = 0 AND s.classid = 'pg_database'::regclass AND s.objid IN (SELECT oid FROM mine))))
FROM (SELECT 1) AS one
LEFT JOIN pg_database d ON d.datname = :'name' LEFT JOIN pg_roles r ON r.rolname = :'owner'
"""
# The database is the service's, and who asks is the superuser: a view in a table's place would have it run what the
# service has written. The lock keeps what is looked at from being exchanged.
POSTGRES_COUNTS = """
BEGIN READ ONLY;
LOCK TABLE ONLY public.runs, ONLY public.experiments IN ACCESS SHARE MODE;
SELECT count(*) = 2 AS plain FROM pg_class
WHERE oid IN ('public.runs'::regclass, 'public.experiments'::regclass) AND relkind = 'r' \\gset
\\if :plain
SELECT (SELECT count(*) FROM ONLY public.runs), (SELECT count(*) FROM ONLY public.experiments);
\\endif
COMMIT;
"""
COUNTS = "SELECT (SELECT count(*) FROM runs), (SELECT count(*) FROM experiments)"


class Refusal(Exception):
    """Why nothing is removed; the text is one sentence for a person."""


def is_within(path, folder):
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def amount(size):
    """A number of bytes for a person."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return "%.*f %s" % (0 if unit == "bytes" else 1, size, unit)
        size /= 1024
    return "%.1f TiB" % size


def held_by(counts):
    """Numbers of runs and experiments in words."""
    if not counts:
        return ""
    words = ((counts[0], "run"), (counts[1], "experiment"))
    return ", with " + " in ".join(
        "%s %s%s" % (number, word, "" if int(number) == 1 else "s") for number, word in words
    )


def tree_bytes(path):
    """Bytes of all files in a folder, however deep it is."""
    total, folders = 0, [path]
    while folders:
        with contextlib.suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_size
    return total


def delete(path):
    """Delete a file, a link, or a folder with all that is in it. Of a mount point, an empty folder stays."""
    files.remove(path)


def delete_data(path):
    """Delete a folder that may be a link to one, where root has made that."""
    real = files.real(path)
    files.remove(real)
    if real != path:
        files.remove(path)


def is_there(path):
    """Whether there is anything to delete; a mount point's own folder is not."""
    return bool(os.listdir(path)) if os.path.ismount(path) else os.path.lexists(path)


def is_plain_folder(path):
    """Whether it is a folder that can be removed once it is empty: no link and no mount point."""
    return os.path.isdir(path) and not os.path.islink(path) and not os.path.ismount(path)


def own_entries(folder, patterns):
    """Paths in a folder whose name fits a pattern, and of those that fit none."""
    if not os.path.isdir(folder):
        return [], []
    fits = {name: any(fnmatch.fnmatch(name, pattern) for pattern in patterns) for name in sorted(os.listdir(folder))}
    own = [os.path.join(folder, name) for name in fits if fits[name]]
    return own, [os.path.join(folder, name) for name in fits if not fits[name]]


def backups_in(folder):
    """Paths of backups, and of what their making leaves there; and of what is not ours."""
    if not os.path.isdir(folder):
        return [], []
    names = sorted(os.listdir(folder))
    own = [name for name in names if name == ".lock" or BACKUP.match(name.lstrip("."))]
    return [os.path.join(folder, name) for name in own], [
        os.path.join(folder, name) for name in names if name not in own
    ]


def wrong_path(option, path):
    """What is wrong with a folder to remove, or the empty string."""
    if not path.startswith("/") or ".." in path.split("/"):
        return "mlflow_%s is %s; it must be an absolute path without `..`." % (option, path or "empty")
    real = os.path.realpath(path)
    if any(is_within(folder, real) for folder in SYSTEM_FOLDERS.split()) or any(
        is_within(real, tree) for tree in SYSTEM_TREES.split()
    ):
        named = path if path == real else "%s, a link to %s" % (path, real)
        return "mlflow_%s is %s, which belongs to the system; nothing is removed there, correct it." % (option, named)
    return ""


class Postgres:
    """A database of MLflow's on this machine's PostgreSQL; ``facts`` is empty where there is neither it nor its user.

    Args:
        name: option with its name.
        other: option with the name of the other one.
    """

    def __init__(self, module, name, other):
        self.module = module
        self.wanted = dict(module.params["database"] or {})
        if self.wanted.get(name):
            self.wanted.update(name=self.wanted[name], other=self.wanted[other])
        else:
            self.wanted = {}
        self.facts, self.error = {}, ""
        if self.wanted and shutil.which("psql") and account(POSTGRES):
            answer, self.error = self.ask(POSTGRES_FACTS, POSTGRES)
            facts = json.loads(answer or "{}")
            self.facts = facts if facts.get("owner") or facts.get("role") else {}

    def ask(self, query, database):
        """What the server answers, and its complaint."""
        wanted = self.wanted
        command = ["setpriv", "--reuid=" + POSTGRES, "--regid=" + POSTGRES, "--init-groups"]
        command += [
            "psql",
            "-XAtqw",
            "-v",
            "ON_ERROR_STOP=1",
            "-v",
            "name=" + wanted["name"],
            "-v",
            "owner=" + wanted["owner"],
            "-v",
            "other=" + wanted["other"],
        ]
        command += ["-p", str(wanted["port"]), "-d", database]
        # Nothing that others have put into the schema public is taken for a function of the server's.
        settings = {"PGOPTIONS": "-c search_path=pg_catalog -c lock_timeout=10s"}
        code, out, err = self.module.run_command(command, data=query, cwd="/", environ_update=settings)
        return out.strip(), "" if code == 0 else " ".join(err.split())

    @property
    def goes(self):
        return self.facts.get("owner") == self.wanted.get("owner")

    @property
    def user_goes(self):
        return self.facts.get("role") and not self.facts["super"] and not self.facts["others"]

    def counts(self):
        answer, error = self.ask(POSTGRES_COUNTS, self.wanted["name"])
        return whole_numbers(answer.split("|")) if not error else []

    def drop(self, statement):
        error = self.ask(statement, POSTGRES)[1]
        if error:
            raise OSError(errno.EIO, error, "PostgreSQL")


def account(name):
    """The account, or None."""
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


class Installation:
    """What there is of an installation, and the steps that remove it.

    Attributes:
        steps: pairs of a phrase and a function, in the order in which they are to be done.
        kept: sentences about what stays though it stands among what goes.
        data: phrases about the data.
    """

    def __init__(self, module):
        self.module = module
        self.wanted = module.params
        self.purge = self.wanted["purge"]
        self.steps, self.kept, self.data = [], [], []
        self.units = self.read_units()
        self.database = Postgres(module, "name", "auth")
        self.accounts = Postgres(module, "auth", "name")
        self.account = account(self.wanted["user"])

    def step(self, phrase, function, *arguments):
        self.steps.append((phrase, lambda: function(*arguments)))

    def run(self, *command):
        code, out, err = self.module.run_command(list(command))
        if code != 0:
            raise OSError(errno.EIO, "it failed: " + " ".join((err or out).split()), " ".join(command))

    # What there is

    def read_units(self):
        properties = ("LoadState", "ActiveState", "UnitFileState", "FragmentPath")
        units = {}
        for unit in self.wanted["units"] if os.path.isdir("/run/systemd/system") else []:
            _code, out, _err = self.module.run_command(["systemctl", "show", unit, "--property", ",".join(properties)])
            shown = dict(line.split("=", 1) for line in out.splitlines() if "=" in line)
            units[unit] = {name: shown.get(name, "") for name in properties}
        return units

    def links(self):
        """What `systemctl enable` has made, which stays where a unit's file went before it was disabled."""
        patterns = [
            "%s/*.%s/%s" % (UNITS_DIR, kind, unit) for kind in ("wants", "requires") for unit in self.wanted["units"]
        ]
        return sorted(path for pattern in patterns for path in glob.glob(pattern))

    def artifacts(self):
        """Folder of artifacts outside the data's folder, or the empty string."""
        folder = self.wanted["artifacts_dir"]
        return folder if folder and not is_within(folder, self.wanted["data_dir"]) else ""

    # Reasons against it

    def refuse(self):
        """Raise Refusal where the settings or the machine speak against removing anything."""
        wanted = self.wanted
        wrong = [
            wrong_path(option, wanted[option]) for option in ("install_dir", "config_dir", "data_dir", "backup_dir")
        ]
        if self.purge and self.artifacts():
            wrong.append(wrong_path("artifacts_location", self.artifacts()))
        if self.purge:
            folders = [("data_dir", wanted["data_dir"]), ("artifacts_location", self.artifacts())]
            wrong += [self.others_home(option, path) for option, path in folders if path]
        inside = [
            path for path in self.data_folders() if is_within(path, os.path.join(wanted["install_dir"], "releases"))
        ]
        wrong += ["%s is among the releases, which are to be removed; move it first." % path for path in inside]
        wrong += self.disagreements()
        wrong = [sentence for sentence in wrong if sentence] or [self.unfinished(), self.processes()]
        if self.purge and self.database.error:
            wrong.append(
                "PostgreSQL on this machine can't be asked for the database %s (%s); start it with "
                "`systemctl start postgresql`, or set postgresql_install to false to leave its data alone."
                % (wanted["database"]["name"], self.database.error)
            )
        wrong = [sentence for sentence in wrong if sentence]
        if wrong:
            raise Refusal(" ".join(wrong))

    def others_home(self, option, path):
        real = os.path.realpath(path)
        homes = {
            os.path.realpath(one.pw_dir): one.pw_name for one in pwd.getpwall() if one.pw_name != self.wanted["user"]
        }
        name = next((homes[home] for home in sorted(homes) if is_within(home, real)), "")
        return (
            "mlflow_%s is %s, which holds the home of the account %s; it is not deleted." % (option, path, name)
            if name
            else ""
        )

    def disagreements(self):
        """Sentences about an installed unit that names other folders or accounts than the settings."""
        unit = read(os.path.join(UNITS_DIR, "mlflow.service"))
        patterns = {
            "install_dir": r"ExecStart=(\S*)/current/bin/python",
            "config_dir": r"EnvironmentFile=(\S*)/mlflow\.env",
            "data_dir": r"WorkingDirectory=(.*)",
            "user": r"User=(.*)",
            "group": r"Group=(.*)",
        }
        if not unit:
            return []
        found = {option: re.search("(?m)^%s" % pattern, unit) for option, pattern in patterns.items()}
        if not found["install_dir"]:
            return ["%s/mlflow.service is not one that this role has written; remove it yourself first." % UNITS_DIR]
        return [
            "mlflow.service on this machine has %s, but mlflow_%s is %s; set it to that."
            % (there[1], option, self.wanted[option])
            for option, there in found.items()
            if there and there[1] != self.wanted[option]
        ]

    def unfinished(self):
        """A sentence about data that a killed change has left half-way: their way back would be lost."""
        kept = rollback.Folder(os.path.join(self.wanted["config_dir"], "rollback"))
        backup = kept.noted().get("backup")
        if self.purge or not backup:
            return ""
        return (
            "A change of the data was killed half-way, and %s knows the way back; let `systemctl restart "
            "mlflow.service` or playbooks/site.yml go it first, or remove that file to keep the data as they are "
            "(%s has them as they were)."
        ) % (kept.journal, backup)

    def processes(self):
        """A sentence about programs that run as the service's account, but not as part of its units."""
        deadline = time.monotonic() + PROCESS_SECONDS  # another run may just have asked a database under the account
        while self.account_goes() and (found := self.strangers()):
            if time.monotonic() > deadline:
                return "%s (process %s) runs as the account %s; wait for its end, or end it." % (
                    *found,
                    self.account.pw_name,
                )
            time.sleep(0.1)
        return ""

    def strangers(self):
        """Name and number of the first of these programs; nothing where there is none."""
        for path in glob.glob("/proc/[0-9]*"):
            with contextlib.suppress(OSError):
                own = any("/%s\n" % unit in read(path + "/cgroup") for unit in self.wanted["units"])
                if os.stat(path).st_uid == self.account.pw_uid and not own:
                    return ascii(read(path + "/comm").strip())[1:-1], os.path.basename(path)
        return ()

    # The steps

    def plan(self):
        self.plan_units()
        self.plan_folder(self.wanted["install_dir"], INSTALLED)
        secrets = os.path.join(self.wanted["config_dir"], SECRETS)
        files = [path for path in self.wanted["files"] if path != secrets]  # which are data
        names = [os.path.basename(path) for path in files if is_within(path, self.wanted["config_dir"])]
        self.plan_folder(self.wanted["config_dir"], (*CONFIGURED, *names), secrets)
        if os.path.isdir(secrets):
            self.plan_data(secrets, "the generated secrets")
        self.plan_account()
        self.plan_database()
        if self.artifacts() and is_there(self.artifacts()):
            self.plan_data(self.artifacts(), "artifacts")
        self.plan_backups()
        if is_there(self.wanted["data_dir"]):
            counts = sqlite_counts(os.path.join(self.wanted["data_dir"], "mlflow.db")) if self.purge else []
            self.plan_data(self.wanted["data_dir"], "the server's data", counts)
        if self.purge:
            for folder in (self.wanted["config_dir"], self.wanted["install_dir"]):
                self.steps.append(("", lambda path=folder: remove_empty(path)))

    def plan_units(self):
        running = [name for name, unit in self.units.items() if unit["ActiveState"] not in ("", "inactive", "failed")]
        if running:
            self.step("the running " + ", ".join(running), self.stop, running)
        links = self.links()
        for path in links:
            self.step(path, delete, path)
        files = [os.path.join(UNITS_DIR, name) for name in self.wanted["units"]]
        files += [path for path in self.wanted["files"] if not is_within(path, self.wanted["config_dir"])]
        files += [os.path.join(STAMPS_DIR, "stamp-" + name) for name in self.wanted["units"] if name.endswith(".timer")]
        files = list(dict.fromkeys(files))  # units may be among the role's files
        files += [os.path.join(os.path.dirname(path), ".%s.change" % os.path.basename(path)) for path in files]
        there = [path for path in files if os.path.lexists(path)]
        for path in there:
            self.step(path, delete, path)
        units = self.units.items()
        known = [
            name
            for name, unit in units
            if unit["LoadState"] not in ("", "not-found") or unit["ActiveState"] == "failed"
        ]
        if known or links:
            self.step("" if there else "what systemd remembers of " + ", ".join(known), self.forget, known)
        for path in sorted(glob.glob(os.path.join(UNITS_DIR, "mlflow*.d"))):
            if os.path.basename(path)[:-2] in self.wanted["units"]:
                self.kept.append("%s stays: the role has not made it." % path)

    def stop(self, units):
        """Stop them at once, so that no client starts the service again. Systemd kills what does not end."""
        self.module.run_command(["systemctl", "stop", *units])
        for unit in units:
            if self.module.run_command(["systemctl", "is-active", "--quiet", unit])[0] == 0:
                raise OSError(errno.EBUSY, "it does not stop; see `systemctl status %s`" % unit, unit)

    def forget(self, units):
        self.run("systemctl", "daemon-reload")
        self.module.run_command(["systemctl", "reset-failed", *units])  # fails where none has failed

    def plan_folder(self, folder, patterns, data=""):
        """Remove from a folder what is ours, and it itself where nothing else is in it."""
        own, others = own_entries(folder, patterns)
        for path in own:
            self.step(path, delete, path)
        others = [path for path in others if path != data and not self.is_data(path)]
        if others:
            self.kept.append("%s stays: the role has not made %s." % (folder, ", ".join(others)))
        elif is_plain_folder(folder) and not os.path.exists(data) and not self.holds_data(folder):
            self.step("" if own else folder, remove_empty, folder)

    def data_folders(self):
        return [path for path in (self.wanted["data_dir"], self.wanted["backup_dir"], self.artifacts()) if path]

    def is_data(self, path):
        return any(
            is_within(folder, path) or is_within(path, folder)
            for folder in self.data_folders()
            if os.path.exists(folder)
        )

    def holds_data(self, folder):
        return any(is_within(data, folder) for data in self.data_folders() if os.path.exists(data))

    def account_goes(self):
        found = self.account
        return found is not None and found.pw_uid in SYSTEM_IDS and found.pw_dir == self.wanted["data_dir"]

    def plan_account(self):
        user, group, folder = self.wanted["user"], self.wanted["group"], self.wanted["data_dir"]
        if self.account and not self.account_goes():
            self.kept.append("The account %s stays: it is no system account with the home %s." % (user, folder))
            return
        for path in (folder, os.path.join(self.wanted["config_dir"], SECRETS)):
            if not self.purge and os.path.isdir(path) and self.is_open(os.stat(path)):
                # The ids of the files stay theirs, and whoever is given them next shall not get in.
                self.step("the right of others than root to enter " + path, self.close, path)
        if self.account:
            self.step("the account " + user, self.run, "userdel", user)
        with contextlib.suppress(KeyError):
            there = grp.getgrnam(group)
            others = {one.pw_name for one in pwd.getpwall() if one.pw_gid == there.gr_gid} | set(there.gr_mem)
            if others - {user} or there.gr_gid not in SYSTEM_IDS:
                self.kept.append("The group %s stays: it is no system group, or others are in it." % group)
            else:
                self.step("the group " + group, self.remove_group, group)

    def is_open(self, there):
        """Whether a folder is open to the service's account or group, or to the next one that gets their ids."""
        uids = {one.pw_uid: one.pw_name for one in pwd.getpwall()}
        gids = {one.gr_gid: one.gr_name for one in grp.getgrall()}
        by_owner = there.st_uid != 0 and uids.get(there.st_uid, self.wanted["user"]) == self.wanted["user"]
        return by_owner or (there.st_gid != 0 and gids.get(there.st_gid, self.wanted["group"]) == self.wanted["group"])

    def remove_group(self, group):
        if any(one.gr_name == group for one in grp.getgrall()):  # where it did not go with its account
            self.run("groupdel", group)

    def close(self, folder):
        files.make_folder(folder, 0, 0, CLOSED)

    def plan_data(self, path, what, counts=(), function=delete_data):
        phrase = "%s (%s)" % (path, what)
        if self.purge:
            held = held_by(counts)
            phrase = "%s (%s, %s%s)" % (path, what, amount(tree_bytes(path)), held)
            self.step(path, function, path)
        self.data.append(phrase)

    def plan_backups(self):
        folder = self.wanted["backup_dir"]
        own, others = backups_in(folder)
        number = len([path for path in own if BACKUP.match(os.path.basename(path))])
        if number:
            self.plan_data(folder, "%d backup%s" % (number, "" if number == 1 else "s"), function=self.delete_backups)
        elif own or (is_plain_folder(folder) and not others):
            self.step(folder, self.delete_backups, folder)
        if others and self.purge:
            self.kept.append("%s stays: %s is no backup of this role." % (folder, ", ".join(others)))

    def delete_backups(self, folder):
        for path in backups_in(folder)[0]:
            delete(path)
        remove_empty(folder)

    def plan_database(self):
        if self.accounts.facts.get("owner"):  # most machines have no accounts
            self.plan_one_database(self.accounts)
        database, wanted = self.database, self.database.wanted
        if not database.facts:
            if database.error:
                self.data.append("the database %s of this machine's PostgreSQL (%s)" % (wanted["name"], database.error))
            return
        self.plan_one_database(database)
        phrase = "the user %s of this machine's PostgreSQL" % wanted["owner"]
        if database.user_goes:
            self.data.append(phrase)
            if self.purge:
                self.step(phrase, database.drop, 'DROP ROLE IF EXISTS :"owner";')
        elif database.facts.get("role") and self.purge:
            self.kept.append("The user %s of PostgreSQL stays: it has other rights or tables too." % wanted["owner"])

    def plan_one_database(self, database):
        name = database.wanted["name"]
        if database.goes:
            phrase = "the database %s of this machine's PostgreSQL" % name
            held = held_by(database.counts() if self.purge else [])
            self.data.append("%s (%s%s)" % (phrase, amount(database.facts["bytes"]), held))
            if self.purge:
                self.step(phrase, database.drop, 'DROP DATABASE IF EXISTS :"name" WITH (FORCE);')
        elif database.facts.get("owner"):
            self.kept.append("The database %s stays: it belongs to the user %s." % (name, database.facts["owner"]))


def remove_empty(folder):
    """Remove a folder where nothing is left in it."""
    with contextlib.suppress(OSError):
        os.rmdir(folder)


def sqlite_counts(path):
    """Numbers of runs and experiments, or nothing where the file can't be asked."""
    try:
        return whole_numbers(sqlite.ask(path, COUNTS))
    except (sqlite.Unanswered, files.Refusal, OSError):
        return []


def whole_numbers(row):
    """A row that has two of them, or nothing."""
    row = row or []
    return row if len(row) == 2 and all(re.match(r"\d{1,18}\Z", str(each)) for each in row) else []


def locks(wanted):
    """Files that runs lock while they change something, and what that is; where there is none, nothing is changed."""
    return {
        rollback.Folder(os.path.join(wanted["config_dir"], "rollback")).lock: "changing settings or data",
        os.path.join(wanted["install_dir"], ".build.lock"): "building a release",  # mlflow_release
    }


@contextlib.contextmanager
def locked(path, what):
    """Nobody else changes the machine meanwhile; Refusal where somebody does not end."""
    deadline = time.monotonic() + LOCK_TIMEOUT_SECONDS
    if not os.path.exists(path):
        yield
        return
    with open(path, encoding="utf-8") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Refusal("Another run is %s on this machine; wait for its end." % what) from None
                time.sleep(0.1)
        yield


def main():
    text, path, words = (
        {"type": "str", "required": True},
        {"type": "path", "required": True},
        {"type": "list", "required": True},
    )
    module = AnsibleModule(
        argument_spec={
            "purge": {"type": "bool", "default": False},
            "install_dir": path,
            "config_dir": path,
            "data_dir": path,
            "backup_dir": path,
            "artifacts_dir": {"type": "path", "default": ""},
            "user": text,
            "group": text,
            "units": {**words, "elements": "str"},
            "files": {**words, "elements": "path"},
            "database": {
                "type": "dict",
                "options": {
                    "name": text,
                    "auth": {"type": "str", "default": ""},
                    "owner": text,
                    "port": {"type": "int", "required": True},
                },
            },
        },
        supports_check_mode=True,
    )
    if os.geteuid() != 0:
        module.fail_json(msg="MLflow is removed as root: let Ansible become root (become: true).")
    try:
        with contextlib.ExitStack() as stack:
            for path, what in locks(module.params).items() if not module.check_mode else ():
                stack.enter_context(locked(path, what))
            installation = Installation(module)
            installation.refuse()
            installation.plan()
            if not module.check_mode:
                for _phrase, act in installation.steps:
                    act()
    except Refusal as refusal:
        module.fail_json(msg="%s Nothing was removed." % refusal)
    except files.Refusal as refusal:
        module.fail_json(msg="%s Run it again to remove the rest." % refusal)
    except OSError as error:
        module.fail_json(
            msg="%s could not be removed: %s. Run it again to remove the rest." % (error.filename, error.strerror)
        )
    removed = [phrase for phrase, _act in installation.steps if phrase]
    module.exit_json(
        changed=bool(removed),
        removed=removed,
        data=installation.data,
        kept=installation.kept,
        diff={"prepared": "".join("removed: %s\n" % phrase for phrase in removed)},
    )


if __name__ == "__main__":
    main()
