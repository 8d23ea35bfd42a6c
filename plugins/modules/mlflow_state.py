#!/usr/bin/python
# Copyright the authors of this repository
# SPDX-License-Identifier: Apache-2.0
"""Read everything the role decides by, in one trip to the machine."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlflow_state
short_description: Read a machine's MLflow installation and what it offers to one
description:
  - Returns the machine (system, memory, addresses), the interpreter that MLflow would use, the
    installed releases, the units, the files and the database, all in one call.
  - Changes nothing, so it does the same in check mode.
options:
  python:
    description: Path of the Python interpreter for MLflow. Empty means to look for one.
    type: str
    default: ""
  python_candidates:
    description: Commands to look for where C(python) is empty, best first.
    type: list
    elements: str
    default: [python3]
  python_minimum:
    description: The first candidate of this version or later is taken.
    type: str
    default: "3.10"
  install_dir:
    description: Folder of the releases.
    type: path
    required: true
  user:
    description: Account of the service.
    type: str
    required: true
  group:
    description: Group of the service.
    type: str
    required: true
  host:
    description: Address that the socket will listen on.
    type: str
    required: true
  port:
    description: TCP port that the socket will listen on.
    type: int
    required: true
  rollback_dir:
    description: Folder where C(managed_files) keeps what it replaced.
    type: path
    required: true
  settings:
    description: Path of the server's settings file.
    type: path
    required: true
  previous_settings:
    description: Path of the settings of a store whose rows the server takes over at its next start.
    type: path
    required: true
  data_dir:
    description: Home of the service, with the SQLite database C(mlflow.db).
    type: path
    required: true
  artifacts_dir:
    description: Folder of local artifacts outside I(data_dir), or empty.
    type: path
    default: ""
  expected_files:
    description: Paths of files that ought to be on the machine.
    type: list
    elements: path
    default: []
  mounts:
    description: Paths of folders that ought to be mount points.
    type: list
    elements: path
    default: []
  schedules:
    description: Calendar expressions that systemd is to understand.
    type: list
    elements: str
    default: []
  backup_dir:
    description: Folder of the backups, or empty.
    type: path
    default: ""
author: The authors of this repository
"""

EXAMPLES = r"""
- name: Read the state of the machine
  mlops.mlflow.mlflow_state:
    install_dir: /opt/mlflow
    user: mlflow
    group: mlflow
    host: 127.0.0.1
    port: 5001
    rollback_dir: /etc/mlflow/rollback
    settings: /etc/mlflow/mlflow.env
    previous_settings: /etc/mlflow/previous.env
    data_dir: /var/lib/mlflow
    backup_dir: /var/backups/mlflow
  register: state
"""

RETURN = r"""
system:
  description: The machine. C(memory_mb) and C(free_mb) count mebibytes.
  returned: always
  type: dict
python:
  description: The interpreter; C(version) is empty where there is none that starts.
  returned: always
  type: dict
account:
  description: Whether user and group exist, and the user's home.
  returned: always
  type: dict
data:
  description: >-
    Whose the files are that a server has left in its folders. C(uid) and C(gid), where no account and no group has
    them, for the new account to take; otherwise empty. C(stranger) is their owner's uid where that is an account
    other than the service's, otherwise empty. C(closed) has those of
    I(data_dir) and the folder of generated secrets that only root may enter.
  returned: always
  type: dict
releases:
  description: Names of the complete releases, oldest first.
  returned: always
  type: list
  elements: str
current:
  description: Name of the release that C(current) points to, or the empty string.
  returned: always
  type: str
previous:
  description: Name of the release that ran before the current one, or the empty string.
  returned: always
  type: str
units:
  description: State of C(mlflow.socket) and C(mlflow.service) as systemd tells it.
  returned: always
  type: dict
timers:
  description: The same of C(mlflow-backup.timer), C(mlflow-gc.timer) and C(mlflow-check.timer).
  returned: always
  type: dict
wrong_schedules:
  description: Those of I(schedules) that systemd does not understand.
  returned: always
  type: list
  elements: str
elapses:
  description: When each of I(schedules) that systemd understands is next, as systemd writes it.
  returned: always
  type: dict
backups:
  description: Names of the finished backups in I(backup_dir), oldest first.
  returned: always
  type: list
  elements: str
postgres_client:
  description: Whether C(pg_dump), C(pg_restore) and C(psql) are there.
  returned: always
  type: bool
running:
  description: Name of the release that the running server was started from, empty where none runs.
  returned: always
  type: str
pending:
  description: Files that were written, but not yet taken up by the units; see C(managed_files).
  returned: always
  type: list
  elements: str
change:
  description: What a change that was not finished was doing; see mlflow_service/change. Otherwise the empty string.
  returned: always
  type: str
port:
  description: What keeps the socket from listening on host and port, or the empty string.
  returned: always
  type: str
missing:
  description: Those of I(expected_files) that are not there.
  returned: always
  type: list
  elements: str
not_mounted:
  description: Those of I(mounts) that are no mount points.
  returned: always
  type: list
  elements: str
exposed:
  description: >-
    Of C(mlflow_install_dir) and C(mlflow_config_dir) those that others than root can change, each with the folder where
    they can.
  returned: always
  type: dict
database:
  description: Whether the SQLite file exists and its schema revision, read under the account that owns it.
  returned: always
  type: dict
store:
  description: >-
    C(name) of the backend store that is in use, without secrets, empty where there is none yet; and
    C(settings), the file that has the settings for it, empty where no file has them.
  returned: always
  type: dict
"""

import errno
import glob
import grp
import json
import os
import pwd
import re
import shutil
import socket

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mlops.mlflow.plugins.module_utils import files, rollback, sqlite
from ansible_collections.mlops.mlflow.plugins.module_utils.host import (
    SOMEBODY,
    described,
    holder,
    listeners,
    read,
    read_system,
)

UNITS = ("mlflow.socket", "mlflow.service")
TIMERS = ("mlflow-backup.timer", "mlflow-gc.timer", "mlflow-check.timer")
UNIT_PROPERTIES = ("LoadState", "ActiveState", "SubState", "UnitFileState", "NeedDaemonReload", "MainPID", "Listen")
MIB = 1024 * 1024
BACKUP = re.compile(r"\d{8}T\d{6}Z-")  # how the name of a backup begins; see mlflow_service/backup
STORE = "MLFLOW_SERVICE_STORE"  # the variable that names the store; the role sets it
PYTHON_PROBE = """
import importlib.util, json, os, sys, sysconfig
print(json.dumps({
    "path": sys.executable,
    "version": "%d.%d.%d" % sys.version_info[:3],
    "has_venv": all(importlib.util.find_spec(m) for m in ("venv", "ensurepip")),
}))
"""


def free_mb(folder):
    """MiB that are free where the folder is, or would be."""
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return shutil.disk_usage(folder).free // MIB


def read_python(module):
    wanted = module.params["python"]
    found = {"path": wanted, "version": "", "has_venv": False}
    for candidate in [wanted] if wanted else module.params["python_candidates"]:
        path = shutil.which(candidate)
        if path is None:
            continue
        rc, out, _err = module.run_command([path, "-I", "-c", PYTHON_PROBE])
        if rc != 0:
            continue
        probed = json.loads(out)
        if as_numbers(probed["version"]) >= as_numbers(module.params["python_minimum"]):
            return probed
        found = found if found["version"] else probed
    return found


def as_numbers(version):
    return [int(part) for part in version.split(".")]


def read_account(user, group):
    account = {"user": False, "group": False}
    try:
        grp.getgrnam(group)
        account["group"] = True
        account["user"] = pwd.getpwnam(user).pw_gid == grp.getgrnam(group).gr_gid
    except KeyError:
        pass
    return account


def read_data(data_dir, secrets_dir, artifacts_dir, user):
    """Whose the server's files are, where its account has been removed (mlflow_removal) or they come from elsewhere."""
    data = {"uid": "", "gid": "", "stranger": "", "closed": []}
    for folder in (data_dir, secrets_dir):
        if os.path.isdir(folder) and os.stat(folder).st_uid == 0 and not os.stat(folder).st_mode & 0o077:
            data["closed"].append(folder)
    uids = {one.pw_uid: one.pw_name for one in pwd.getpwall()}
    exists = user in uids.values()
    for path in (os.path.join(data_dir, "mlflow.db"), os.path.join(data_dir, "artifacts"), artifacts_dir):
        owner = read_owner(path) if path else None
        if owner is None:
            continue
        uid, gid = owner
        if uid == 0 or uids.get(uid) == user:
            continue
        if uid not in uids and not exists:
            data["uid"] = uid
            data["gid"] = "" if gid == 0 or gid in {one.gr_gid for one in grp.getgrall()} else gid
            break
        if path != artifacts_dir:  # which may be anyone's, when it is first named
            data["stranger"] = uid
            break
    return data


def read_owner(path):
    """Ids of owner and group; None where nothing is, or a link that the service can have made."""
    try:
        found = files.attributes(path)
    except files.Refusal:
        return None
    return found and found[:2]


def read_exposed(folders, group):
    """Those of the folders, by setting, in which others could exchange what root runs or believes, and where."""
    try:
        gid = grp.getgrnam(group).gr_gid
    except KeyError:
        gid = None
    found = {setting: files.unsafe_folder(path, gid) for setting, path in folders.items()}
    return {setting: where for setting, where in found.items() if where}


def read_releases(install_dir):
    folders = [path for path in glob.glob(os.path.join(install_dir, "releases", "*")) if os.path.isdir(path)]
    return [os.path.basename(path) for path in sorted(folders, key=os.path.getmtime)]


def read_link(install_dir, name):
    link = os.path.join(install_dir, name)
    return os.path.basename(os.readlink(link)) if os.path.islink(link) else ""


def read_units(module, names):
    units = {}
    for unit in names:
        _rc, out, _err = module.run_command(["systemctl", "show", unit, "--property", ",".join(UNIT_PROPERTIES)])
        properties = dict(line.split("=", 1) for line in out.splitlines() if "=" in line)
        units[unit] = {name: properties.get(name, "") for name in UNIT_PROPERTIES}
    return units


def read_schedules(module, schedules):
    """When each is next, by systemd's words; None where it does not understand it. Nothing where it can't be asked."""
    if not shutil.which("systemd-analyze"):
        return {}
    found = {}
    for each in schedules:
        rc, out, _err = module.run_command(["systemd-analyze", "calendar", "--", each])
        found[each] = next_elapse(out) if rc == 0 else None
    return found


def next_elapse(said):
    """The moment in what ``systemd-analyze calendar`` says, in the machine's time."""
    found = re.search(r"^ *Next elapse: (.+)$", said, re.MULTILINE)
    return found[1] if found else ""


def read_backups(folder):
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return sorted(
        each for each in names if BACKUP.match(each) and os.path.isfile(os.path.join(folder, each, "manifest.json"))
    )


def read_running(units, install_dir):
    command = read("/proc/%s/cmdline" % units["mlflow.service"]["MainPID"]).split("\0")[0]
    releases = os.path.join(install_dir, "releases", "")
    return command[len(releases) :].split("/")[0] if command.startswith(releases) else ""


def read_port(host, port, units):
    """Whether the socket could listen there: tried for real, then explained.

    Returns an empty string, or what stands in the way. What MLflow's own socket holds is free to it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.inet_pton(family, host)
    except OSError:
        return "%s is no IP address" % host
    ours = units["mlflow.socket"]["ActiveState"] == "active" and port in socket_ports(units["mlflow.socket"]["Listen"])
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, 0 if ours else port))
            probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                holders = [described(*holder(inode)) for _address, inode in listeners(port)]
                return "port %d is taken by %s" % (port, (holders or [SOMEBODY])[0])
            if error.errno == errno.EADDRNOTAVAIL:
                return "%s is no address of this machine" % host
            return "%s:%d can't be listened on (%s)" % (host, port, error.strerror)
    return ""


def socket_ports(listen):
    """The ports in systemd's property Listen, such as ``127.0.0.1:5001 (Stream)``."""
    return {int(port) for port in re.findall(r":(\d+) \(Stream\)", listen)}


def read_database(path):
    database = {"exists": bool(path) and os.path.lexists(path), "revision": ""}
    if database["exists"]:
        try:
            row = sqlite.ask(path, "SELECT version_num FROM alembic_version")
            revision = row[0] if row and isinstance(row[0], str) else ""
            database["revision"] = revision if re.match(r"\w{0,64}\Z", revision) else ""
        except (sqlite.Unanswered, files.Refusal, OSError) as error:
            database["error"] = str(error)
    return database


def variable(name, text):
    """The value of a variable that needs no escape, in a settings file or a process's environment."""
    found = re.search(r'(?:^|\n|\0)%s="?([^"\n\0]*)' % name, text)
    return found[1] if found else ""


def read_store(wanted, units, pending):
    """The backend store that is in use: that of the running server, or else of the settings last in use.

    While a server takes over the rows of another store, that other one is still the one in use.
    """
    paths = [wanted["settings"]]
    if wanted["settings"] in pending:  # nobody has used it yet, so what it replaced counts, if there was anything
        paths = [pending[wanted["settings"]].get("copy", "")]
    running = variable(STORE, read("/proc/%s/environ" % units["mlflow.service"]["MainPID"]))
    previous = wanted["previous_settings"]
    if os.path.exists(previous) and not taken_over(previous, wanted["data_dir"]):
        running, paths = "", [previous]
    database = os.path.join(wanted["data_dir"], "mlflow.db")
    name = running or next((variable(STORE, read(path)) for path in paths if os.path.exists(path)), "")
    name = name or ("sqlite:///" + database if os.path.exists(database) else "")
    # Settings of another store would have the wrong one asked what it holds.
    paths += [wanted["settings"]]
    settings = next((path for path in paths if os.path.exists(path) and variable(STORE, read(path)) == name), "")
    return {"name": name, "settings": settings}


def taken_over(previous, data_dir):
    """Whether the server has finished with these settings of a previous store; see copy_at_start.py."""
    try:
        said = files.read(os.path.join(data_dir, ".taken-over"), 64)
    except (files.Refusal, OSError):
        return False
    return said == str(os.stat(previous).st_mtime_ns).encode()


def main():
    module = AnsibleModule(
        argument_spec={
            "python": {"type": "str", "default": ""},
            "python_candidates": {"type": "list", "elements": "str", "default": ["python3"]},
            "python_minimum": {"type": "str", "default": "3.10"},
            "install_dir": {"type": "path", "required": True},
            "user": {"type": "str", "required": True},
            "group": {"type": "str", "required": True},
            "host": {"type": "str", "required": True},
            "port": {"type": "int", "required": True},
            "rollback_dir": {"type": "path", "required": True},
            "settings": {"type": "path", "required": True},
            "previous_settings": {"type": "path", "required": True},
            "data_dir": {"type": "path", "required": True},
            "artifacts_dir": {"type": "path", "default": ""},
            "expected_files": {"type": "list", "elements": "path", "default": []},
            "mounts": {"type": "list", "elements": "path", "default": []},
            "schedules": {"type": "list", "elements": "str", "default": []},
            "backup_dir": {"type": "path", "default": ""},
        },
        supports_check_mode=True,
    )
    wanted = module.params
    if os.geteuid() != 0:
        module.fail_json(msg="MLflow is installed as root: let Ansible become root (become: true).")
    kept = rollback.Folder(wanted["rollback_dir"])
    kept.wait()
    system = {**read_system(), "free_mb": free_mb(wanted["install_dir"])}
    nothing = {unit: dict.fromkeys(UNIT_PROPERTIES, "") for unit in UNITS + TIMERS}
    units = read_units(module, UNITS + TIMERS) if system["systemd"] else nothing
    schedules = read_schedules(module, wanted["schedules"]) if system["systemd"] else {}
    pending = kept.replaced()
    secrets = os.path.join(os.path.dirname(wanted["settings"]), "secrets")
    module.exit_json(
        changed=False,
        system=system,
        python=read_python(module),
        account=read_account(wanted["user"], wanted["group"]),
        data=read_data(wanted["data_dir"], secrets, wanted["artifacts_dir"], wanted["user"]),
        releases=read_releases(wanted["install_dir"]),
        current=read_link(wanted["install_dir"], "current"),
        previous=read_link(wanted["install_dir"], "previous"),
        units={unit: units[unit] for unit in UNITS},
        timers={unit: units[unit] for unit in TIMERS},
        wrong_schedules=[each for each, moment in schedules.items() if moment is None],
        elapses={each: moment for each, moment in schedules.items() if moment is not None},
        backups=read_backups(wanted["backup_dir"]),
        postgres_client=all(shutil.which(tool) for tool in ("pg_dump", "pg_restore", "psql")),
        running=read_running(units, wanted["install_dir"]),
        port=read_port(wanted["host"], wanted["port"], units),
        pending=sorted(pending),
        change=kept.noted().get("phase", ""),
        exposed=read_exposed(
            {"mlflow_install_dir": wanted["install_dir"], "mlflow_config_dir": os.path.dirname(wanted["settings"])},
            wanted["group"],
        ),
        database=read_database(os.path.join(wanted["data_dir"], "mlflow.db")),
        store=read_store(wanted, units, pending),
        missing=[path for path in wanted["expected_files"] if not os.path.isfile(path)],
        not_mounted=[path for path in wanted["mounts"] if not os.path.ismount(path)],
    )


if __name__ == "__main__":
    main()
