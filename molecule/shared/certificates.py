"""Certificates for tests, from a CA that is thrown away: ``python certificates.py FOLDER SERVER_NAME CLIENT_NAME``.

Writes ``ca.pem``, and ``server.pem``, ``server.key``, ``client.pem`` and ``client.key`` of the two names.
"""

import sys
from pathlib import Path

import trustme


def main() -> None:
    folder, server, client = Path(sys.argv[1]), *sys.argv[2:]
    folder.mkdir(parents=True, exist_ok=True)
    ca = trustme.CA()
    ca.cert_pem.write_to_path(folder / "ca.pem")
    for role, certificate in {"server": ca.issue_cert(server), "client": ca.issue_cert(common_name=client)}.items():
        certificate.cert_chain_pems[0].write_to_path(folder / f"{role}.pem")
        certificate.private_key_pem.write_to_path(folder / f"{role}.key")


if __name__ == "__main__":
    main()
