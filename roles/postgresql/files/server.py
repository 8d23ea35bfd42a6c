"""The server and its files: check new ones, have it read them, and ask whether it goes by them.

    check CONFIG BIN DATA PARAMETERS [CERTIFICATE KEY]  before any of them is in its place: syntax and values of the
                                                        parameters, and whether certificate and key belong together
    reload CONFIG BIN DATA UNIT                         have the server read its files, and restart it for those
                                                        parameters that can't change without
    ask CONFIG BIN DATA UNIT                            whether it answers, and could read all access rules

CONFIG is the folder of postgresql.conf, BIN that of the server's programs, DATA that of its data. Says what is wrong,
in one line, and ends with 1 then.
"""

import json
import os
import pwd
import ssl
import subprocess
import sys
import tempfile
import time

ACCOUNT = "postgres"
SECONDS = 20  # that the server may take until it has read its files
ASKED_SECONDS = 10
QUERY = """
SELECT json_build_object(
  'loaded', pg_conf_load_time()::text,
  'restart_for', (SELECT count(*) FROM pg_settings WHERE pending_restart),
  'access_errors', (SELECT coalesce(json_agg(error), '[]') FROM pg_hba_file_rules WHERE error IS NOT NULL))
"""


def as_account(*command, **variables):
    """Run a command with the rights of the server's account alone, whose files are no command of root's."""
    account = pwd.getpwnam(ACCOUNT)

    def become():
        os.initgroups(ACCOUNT, account.pw_gid)
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)

    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", **variables}
    options = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "cwd": "/", "env": environment}
    return subprocess.run(command, preexec_fn=become, timeout=SECONDS, check=False, **options)


def systemctl(action, unit):
    done = subprocess.run(["systemctl", action, unit], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"Unable to {action} {unit}: {done.stderr.strip()}")


def wrong_settings(bin_dir, folder, *options):
    """What the server says of its parameters without being started."""
    done = as_account(os.path.join(bin_dir, "postgres"), "-D", folder, *options, "-C", "port")
    if done.returncode == 0:
        return []
    # Each message begins with a time stamp, as the configuration asks for it; the last one only counts the others.
    lines = done.stderr.splitlines()
    reasons = [line.split("LOG:")[1].strip() for line in lines if "LOG:" in line]
    return reasons or lines or ["postgres -C ends with an error"]


def wrong_parameters(bin_dir, data_dir, parameters):
    """The same of one file of parameters, which the account reads where it may."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o711)
        path = os.path.join(folder, "postgresql.conf")
        with open(parameters, encoding="utf-8") as source, open(path, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(source.read())
        found = wrong_settings(bin_dir, data_dir, "-c", f"config_file={path}")
        return [reason.replace(path, parameters) for reason in found]


def wrong_tls(certificate, key):
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=lambda: b"")
    except (ssl.SSLError, ValueError, OSError) as error:
        reason = getattr(error, "reason", "") or str(error)
        return [f"the TLS certificate and its key don't fit: {reason}"]
    return []


def check(_config_dir, bin_dir, data_dir, parameters, *tls):
    return wrong_parameters(bin_dir, data_dir, parameters) + (wrong_tls(*tls) if tls else [])


def asked(bin_dir, data_dir):
    """What the server says of what it has read, or None where it does not answer."""
    status = as_account("head", "--bytes=4096", os.path.join(data_dir, "postmaster.pid")).stdout.splitlines()
    if len(status) < 5:
        return None
    where = ["-h", status[4].strip(), "-p", status[3].strip()]
    command = [os.path.join(bin_dir, "psql"), "-XAtq", "-w", *where, "-d", "postgres", "-c", QUERY]
    # Nothing that others have put into the schema public is taken for a function of the server's.
    options = {"PGOPTIONS": "-c search_path=pg_catalog", "PGCONNECT_TIMEOUT": str(ASKED_SECONDS)}
    try:
        done = as_account(*command, **options)
    except subprocess.TimeoutExpired:
        return None
    return json.loads(done.stdout) if done.returncode == 0 else None


def wrong_access(found):
    wrong = found["access_errors"][:1]
    return [f"pg_hba.conf has a line that the server can't read: {error}" for error in wrong]


def reload(config_dir, bin_dir, data_dir, unit):
    # All files together, so also those that somebody else has changed
    wrong = wrong_settings(bin_dir, config_dir)
    if wrong:
        return wrong
    before = (asked(bin_dir, data_dir) or {}).get("loaded")
    systemctl("reload", unit)
    # The server reads its files a moment after it is told to; only then it knows what needs a restart.
    deadline = time.monotonic() + SECONDS
    found = asked(bin_dir, data_dir)
    while not found or found["loaded"] == before:
        if time.monotonic() > deadline:
            return [f"it has not read its files in {SECONDS} s"]
        time.sleep(0.2)
        found = asked(bin_dir, data_dir)
    wrong = wrong_access(found)
    if not wrong and found["restart_for"]:
        systemctl("restart", unit)
    return wrong


def ask(_config_dir, bin_dir, data_dir, _unit):
    found = asked(bin_dir, data_dir)
    return wrong_access(found) if found else ["it does not answer"]


def main():
    command, *arguments = sys.argv[1:]
    found = {"check": check, "reload": reload, "ask": ask}[command](*arguments)
    if found:
        sys.exit("; ".join(found))


main()
