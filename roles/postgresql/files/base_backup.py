"""Put a copy of the primary in the place of the cluster on this machine, whole or not at all.

The one argument is a JSON object: ``primary`` as libpq is told of it, ``slot`` there, ``data_dir``, ``bin_dir`` and
``unit`` of the cluster here, and its ``max_connections``. The copy is made beside the cluster, as the server's account,
which reads the password from its own file; it takes the cluster's place by a rename. What is in folders of that account
is touched with its rights alone: a link there leads no further than the account itself could go. Prints what is wrong,
in one sentence, and ends with 1 then, after it has started the cluster from before again.
"""

import contextlib
import fcntl
import json
import os
import pwd
import re
import shutil
import subprocess
import sys

ACCOUNT = "postgres"
LOCK = "/run/postgresql-ansible-base-backup.lock"


class Wrong(Exception):
    """Why there is no copy, for a person."""


def run(*command, account=""):
    """What a command prints; it ends with this program, however that ends."""
    # setpriv(1) of util-linux: a pg_basebackup without this program would go on writing and hold the slot.
    become = [f"--reuid={account}", f"--regid={account}", "--init-groups"] if account else []
    options = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "cwd": "/"}
    done = subprocess.run(["setpriv", *become, "--pdeathsig=KILL", "--", *command], env=ENVIRONMENT, **options)
    if done.returncode != 0:
        raise Wrong(" ".join((done.stderr or done.stdout).split()) or f"{command[0]} ended with {done.returncode}")
    return done.stdout


ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}


@contextlib.contextmanager
def rights_of(name):
    """Do what the block does with the rights of an account, and no more; only root comes back from there."""
    account = pwd.getpwnam(name)
    groups = os.getgroups()
    os.setgroups(os.getgrouplist(name, account.pw_gid))
    os.setegid(account.pw_gid)
    os.seteuid(account.pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def remove(folder):
    with rights_of(ACCOUNT):
        shutil.rmtree(folder, ignore_errors=True)


def copy(asked, folder):
    """Make the copy in the folder, which has to be absent."""
    remove(folder)  # of a run that was interrupted
    program = os.path.join(asked["bin_dir"], "pg_basebackup")
    how = ["--wal-method=stream", "--checkpoint=fast", "--no-password", f"--slot={asked['slot']}"]
    run(program, f"--pgdata={folder}", f"--dbname={asked['primary']}", *how, account=ACCOUNT)


def look_at(asked, folder):
    """Refuse a copy with which the server here would not start."""
    here = re.search(r"\d+", run(os.path.join(asked["bin_dir"], "postgres"), "--version", account=ACCOUNT))[0]
    with rights_of(ACCOUNT), open(os.path.join(folder, "PG_VERSION"), encoding="ascii") as file:
        there = file.read(16).strip()
    if here != there.split(".")[0]:
        raise Wrong(f"the primary is PostgreSQL {there} and this machine has {here}; both need the same.")
    control = run(os.path.join(asked["bin_dir"], "pg_controldata"), folder, account=ACCOUNT)
    wanted = int(re.search(r"^max_connections setting: *(\d+)", control, re.MULTILINE)[1])
    if asked["max_connections"] < wanted:
        raise Wrong(
            f"postgresql_max_connections is {asked['max_connections']}, and the primary has {wanted}; take as many."
        )


def begin_to_follow(folder):
    """Tell the server that starts on the folder to follow a primary; see standby.signal in PostgreSQL's manual."""
    with rights_of(ACCOUNT), open(os.path.join(folder, "standby.signal"), "w", encoding="ascii") as file:
        os.fsync(file.fileno())


def take_the_place(asked, folder):
    """Rename the copy to what the cluster is called. In between there is no cluster, and the next run begins anew."""
    before = asked["data_dir"] + ".ansible-before"
    remove(before)
    with rights_of(ACCOUNT):
        if os.path.exists(asked["data_dir"]):
            os.rename(asked["data_dir"], before)
        os.rename(folder, asked["data_dir"])
        parent = os.open(os.path.dirname(asked["data_dir"]), os.O_RDONLY)
        os.fsync(parent)
    remove(before)


def main():
    asked = json.loads(sys.argv[1])
    folder = asked["data_dir"] + ".ansible-copy"
    with open(LOCK, "w", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            run("systemctl", "stop", asked["unit"])  # a replica that runs has the slot
            copy(asked, folder)
            look_at(asked, folder)
            begin_to_follow(folder)
            take_the_place(asked, folder)
        except BlockingIOError:
            print("another run takes one already; wait for its end.")
        except (Wrong, OSError) as error:
            remove(folder)
            subprocess.run(["systemctl", "start", asked["unit"]], capture_output=True)
            print(error)
        else:
            return
    sys.exit(1)


main()
