"""Check a configuration before the server reads it: its syntax and values, and the TLS certificate with its key.

Arguments: folder of postgresql.conf, folder of the server's programs, and, with TLS, certificate and key.
Prints what is wrong, in one line, and ends with 1 then.
"""

import os
import pwd
import ssl
import subprocess
import sys

ACCOUNT = "postgres"


def wrong_settings(config_dir, bin_dir):
    account = pwd.getpwnam(ACCOUNT)

    def become():
        os.initgroups(ACCOUNT, account.pw_gid)
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)

    command = [os.path.join(bin_dir, "postgres"), "-D", config_dir, "-C", "port"]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=become, cwd="/", env={"LC_ALL": "C"})
    if done.returncode == 0:
        return []
    # Each message begins with a time stamp, as the configuration asks for it; the last one only counts the others.
    lines = done.stderr.splitlines()
    reasons = [line.split("LOG:")[1].strip() for line in lines if "LOG:" in line]
    return reasons or lines or ["postgres -C ends with an error"]


def wrong_tls(certificate, key):
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=lambda: b"")
    except (ssl.SSLError, ValueError, OSError) as error:
        reason = getattr(error, "reason", "") or str(error)
        return [f"the TLS certificate and its key don't fit: {reason}"]
    return []


def main():
    config_dir, bin_dir, *tls = sys.argv[1:]
    found = wrong_settings(config_dir, bin_dir) + (wrong_tls(*tls) if tls else [])
    print("; ".join(found))
    sys.exit(1 if found else 0)


main()
