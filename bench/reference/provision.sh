#!/bin/sh
# What the role does on a bare Debian 12, by hand and without Ansible: the fastest that these steps go.
# Runs as root on the machine; uv.txt and the lock of MLflow are beside it.
set -eu
here=$(dirname "$0")
export DEBIAN_FRONTEND=noninteractive

apt-get update -qq
apt-get install -qq --yes --no-install-recommends python3-venv >/dev/null

useradd --system --user-group --home-dir /var/lib/mlflow --no-create-home --shell /usr/sbin/nologin mlflow
install -d -m 0755 /opt/mlflow /etc/mlflow
install -d -m 0750 -o mlflow -g mlflow /var/lib/mlflow /var/lib/mlflow/artifacts

python3 -m venv /opt/mlflow/uv
/opt/mlflow/uv/bin/python -m pip install --quiet --no-cache-dir --require-hashes --no-deps -r "$here/uv.txt"
export UV_CACHE_DIR=/opt/mlflow/cache UV_NO_PROGRESS=true UV_PYTHON_DOWNLOADS=never UV_SYSTEM_CERTS=true
uv=/opt/mlflow/uv/bin/uv
$uv venv --quiet --python /usr/bin/python3 /opt/mlflow/venv
$uv pip install --quiet --python /opt/mlflow/venv/bin/python --compile-bytecode --require-hashes \
    -r "$here/mlflow-3.17.2.txt"
rm -rf /opt/mlflow/cache

cat >/etc/mlflow/mlflow.env <<'ENV'
MLFLOW_HOST=127.0.0.1
MLFLOW_PORT=5001
MLFLOW_WORKERS=2
MLFLOW_BACKEND_STORE_URI=sqlite:////var/lib/mlflow/mlflow.db
MLFLOW_SQLALCHEMYSTORE_POOL_SIZE=45
MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW=45
MLFLOW_SERVE_ARTIFACTS=true
MLFLOW_ARTIFACTS_DESTINATION=/var/lib/mlflow/artifacts
MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
MLFLOW_DISABLE_TELEMETRY=true
ENV
chown root:mlflow /etc/mlflow/mlflow.env
chmod 0640 /etc/mlflow/mlflow.env

cat >/etc/systemd/system/mlflow.socket <<'UNIT'
[Socket]
ListenStream=127.0.0.1:5001
NoDelay=true

[Install]
WantedBy=sockets.target
UNIT
cat >/etc/systemd/system/mlflow.service <<'UNIT'
[Unit]
Description=MLflow
Requires=mlflow.socket
After=mlflow.socket network-online.target

[Service]
User=mlflow
Group=mlflow
WorkingDirectory=/var/lib/mlflow
EnvironmentFile=/etc/mlflow/mlflow.env
ExecStart=/opt/mlflow/venv/bin/mlflow server --uvicorn-opts "--fd 0"
StandardInput=socket
StandardOutput=journal
StandardError=journal
Restart=always
ProtectSystem=strict
ReadWritePaths=/var/lib/mlflow
PrivateTmp=true
NoNewPrivileges=true

[Install]
WantedBy=multi-user.target
UNIT
systemctl daemon-reload
systemctl enable --quiet --now mlflow.socket mlflow.service

# The socket takes the connection at once; the answer comes when the server has started.
python3 -c 'import urllib.request as r; r.urlopen("http://127.0.0.1:5001/health", timeout=180).read()'
