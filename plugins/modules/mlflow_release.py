#!/usr/bin/python
# Copyright the authors of this repository
# SPDX-License-Identifier: Apache-2.0
"""Build one complete, read-only MLflow release, or none."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlflow_release
short_description: Build a virtual environment from a hash-checked lock, complete or absent
description:
  - Installs the packages of a lock into a new virtual environment with uv, adds the
    C(mlflow_service) package, compiles the bytecode of all but tests, and makes the result visible by one rename.
  - Whatever fails or is killed on the way leaves no release, and the next call starts afresh.
  - Two calls at once wait for each other.
options:
  name:
    description: Name of the release, unique for all that goes into it.
    type: str
    required: true
  install_dir:
    description: Folder that holds C(releases).
    type: path
    required: true
  python:
    description: Path of the interpreter for the virtual environment.
    type: path
    required: true
  version:
    description: MLflow version that the lock installs.
    type: str
    required: true
  lock:
    description: Text of the requirements, each with its hashes.
    type: str
    required: true
  uv_lock:
    description: Text of the requirements that install uv, with hashes.
    type: str
    required: true
  extra_packages:
    description: Requirements on top of the lock, resolved so that nothing in the lock changes.
    type: list
    elements: str
    default: []
  service_files:
    description: Text of each file to add to the site-packages, by relative path.
    type: dict
    required: true
  wheels:
    description:
      - Path of a tar archive with all the wheels. Where it is set, nothing is downloaded.
    type: path
    default: ""
  environment:
    description: Environment variables for the download, such as proxies.
    type: dict
    default: {}
author: The authors of this repository
"""

EXAMPLES = r"""
- name: Build the release
  mlops.mlflow.mlflow_release:
    name: 3.17.2-0123456789ab
    version: 3.17.2
    install_dir: /opt/mlflow
    python: /usr/bin/python3
    lock: "{{ lookup('ansible.builtin.file', 'locks/3.17.2.txt') }}"
    uv_lock: "{{ lookup('ansible.builtin.file', 'locks/uv.txt') }}"
    service_files: {mlflow_service/__init__.py: ""}
"""

RETURN = r"""
path:
  description: Folder of the release.
  returned: success
  type: str
seconds:
  description: How long each step took.
  returned: when a release was built
  type: dict
"""

import fcntl
import glob
import hashlib
import os
import re
import shutil
import time

from ansible.module_utils.basic import AnsibleModule

# What uv and pip say, and the sentence that helps. The first match counts.
REASONS = (
    (r"invalid package format|Failed to read from zip",
     "a wheel is damaged; where it is from mlflow_wheelhouse, `make wheelhouse` replaces it"),
    (r"--no-index|--find-links|no index|provided package locations",
     "a package is not in the wheelhouse (mlflow_wheelhouse); "
     "`make wheelhouse` fetches what mlflow_extra_packages need too, where EXTRA names them"),
    (r"[Hh]ash mismatch|DO NOT MATCH THE HASHES",
     "a downloaded package does not have the hash that the lock names, so it was not installed; "
     "if the lock is right, something between here and the package index changes files"),
    (r"No space left on device|os error 28",
     "the disk is full; free some space below the install folder (mlflow_install_dir) or move it"),
    (r"UnknownIssuer|CERTIFICATE_VERIFY_FAILED|certificate",
     "the package index's certificate is not trusted; name your network's CA in mlflow_ca_bundle"),
    (r"dns error|error sending request|Failed to fetch|Temporary failure in name resolution|NewConnectionError|"
     r"Connection refused|timed out|ConnectTimeout",
     "the package index can't be reached; set mlflow_pip_index, or a proxy in mlflow_install_environment"),
    (r"No solution found|no version of|not found in the package registry|No matching distribution",
     "a package of the lock is not to be had for this Python or this machine"),
)  # fmt: skip

LOGIN = re.compile(r"//[^/\s@]*@")  # in the address of an index or a proxy

# Run by the release's own Python. uv and compileall do it too, but packages' own tests are a quarter of all files and
# nothing imports them, and compileall would fail for one file that isn't Python, such as a template.
COMPILE = """
import concurrent.futures, multiprocessing, os, py_compile, sys

def compile_file(path):
    try:
        py_compile.compile(path, doraise=True)
    except py_compile.PyCompileError:
        pass

files = []
for folder, folders, names in os.walk(sys.argv[1]):
    folders[:] = [name for name in folders if name not in ("test", "tests")]
    files += [os.path.join(folder, name) for name in names if name.endswith(".py")]
with concurrent.futures.ProcessPoolExecutor(mp_context=multiprocessing.get_context("fork")) as pool:
    list(pool.map(compile_file, files, chunksize=32))
"""


class Builder:
    """One build, in ``releases/.build``; the folder is gone afterwards, whatever happens."""

    def __init__(self, module):
        self.module = module
        self.wanted = module.params
        self.releases = os.path.join(self.wanted["install_dir"], "releases")
        self.release = os.path.join(self.releases, self.wanted["name"])
        self.folder = os.path.join(self.releases, ".build")
        self.venv = os.path.join(self.folder, "venv")
        cache = {"UV_CACHE_DIR": os.path.join(self.folder, "cache")}
        self.environment = {
            **cache,
            "UV_SYSTEM_CERTS": "true",
            "UV_NO_PROGRESS": "true",
            "UV_NO_CONFIG": "true",
            "UV_PYTHON_DOWNLOADS": "never",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_NO_CACHE_DIR": "1",
        }
        self.environment.update({key: str(value) for key, value in self.wanted["environment"].items()})
        self.wheels = os.path.join(self.folder, "wheels") if self.wanted["wheels"] else ""
        self.source = ["--no-index", "--find-links", self.wheels] if self.wheels else []
        if self.wheels:  # a cache that outlives the build would hide that a wheel of the wheelhouse has changed
            self.environment.update(cache)
        self.seconds = {}

    def run(self, step, command):
        """Run one command of the build; the module fails with a sentence when the command does."""
        started = time.monotonic()
        code, out, err = self.module.run_command(command, environ_update=self.environment, umask=0o022)
        self.seconds[step] = round(time.monotonic() - started, 1)
        if code == 0:
            return out
        said = LOGIN.sub("//", "\n".join((err or out).strip().splitlines()[-15:]))
        reason = next((text for pattern, text in REASONS if re.search(pattern, err + out)), "see what it said")
        if code < 0:
            reason = "it was stopped by signal %d; run the playbook again" % -code
        self.fail("The release %s was not built (%s): %s." % (self.wanted["name"], step, reason), said)

    def fail(self, sentence, said=""):
        shutil.rmtree(self.folder, ignore_errors=True)
        self.module.fail_json(msg=sentence + " Nothing that was installed before has changed.", said=said)

    def write(self, path, text):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path

    def uv(self):
        """Path of uv, installed first where it is missing: complete or absent, like a release."""
        lock = self.wanted["uv_lock"]
        home = os.path.join(self.wanted["install_dir"], "uv-" + hashlib.sha256(lock.encode()).hexdigest()[:12])
        if not os.path.exists(home):
            building = os.path.join(self.folder, "uv")
            requirements = self.write(os.path.join(self.folder, "uv.txt"), lock)
            pip = [os.path.join(building, "bin", "python"), "-I", "-m", "pip", "--quiet"]
            self.run("making room for uv", [self.wanted["python"], "-I", "-m", "venv", building])
            install = [*pip, "install", *self.source, "--require-hashes", "--no-deps", "-r", requirements]
            self.run("installing uv", install)
            os.rename(building, home)
            for other in glob.glob(os.path.join(self.wanted["install_dir"], "uv-*")):
                if other != home:
                    shutil.rmtree(other, ignore_errors=True)
        return os.path.join(home, "bin", "uv")

    def install(self):
        lock = self.write(os.path.join(self.folder, "lock.txt"), self.wanted["lock"])
        if self.wheels:
            os.mkdir(self.wheels)
            self.run("unpacking the wheels", ["tar", "-xf", self.wanted["wheels"], "-C", self.wheels])
        uv = self.uv()
        self.run("making the virtual environment", [
            uv, "venv", "--quiet", "--relocatable", "--no-project", "--python", self.wanted["python"], self.venv,
        ])  # fmt: skip
        python = os.path.join(self.venv, "bin", "python")
        install = [uv, "pip", "install", "--quiet", "--python", python, *self.source]
        self.run("installing the locked packages", [*install, "--require-hashes", "-r", lock])
        if self.wanted["extra_packages"]:
            extra = self.write(os.path.join(self.folder, "extra.txt"), "\n".join(self.wanted["extra_packages"]))
            self.run("installing mlflow_extra_packages", [*install, "--constraints", lock, "-r", extra])
        return python

    def add_service(self, python):
        """Add what runs MLflow as a service; returns nothing, fails where MLflow is another version."""
        probe = "import importlib.metadata as m, sysconfig; print(m.version('mlflow'), sysconfig.get_path('purelib'))"
        installed, packages = self.run("looking at the result", [python, "-I", "-c", probe]).split(maxsplit=1)
        if installed != self.wanted["version"]:
            self.fail("The lock installs MLflow %s, not %s." % (installed, self.wanted["version"]))
        packages = packages.strip()
        for path, text in self.wanted["service_files"].items():
            self.write(os.path.join(packages, path), text)
        self.run("compiling the packages", [python, "-I", "-c", COMPILE, packages])

    def build(self):
        shutil.rmtree(self.folder, ignore_errors=True)  # what a killed run left
        os.makedirs(self.folder)
        try:
            self.add_service(self.install())
            shutil.rmtree(os.path.join(self.folder, "cache"), ignore_errors=True)
            os.sync()  # first the files, then their name: losing power leaves no empty shell of a release
            os.rename(self.venv, self.release)
        except OSError as error:
            self.fail("The release %s was not built: %s." % (self.wanted["name"], error))
        shutil.rmtree(self.folder)


def main():
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "install_dir": {"type": "path", "required": True},
            "python": {"type": "path", "required": True},
            "version": {"type": "str", "required": True},
            "lock": {"type": "str", "required": True},
            "uv_lock": {"type": "str", "required": True},
            "extra_packages": {"type": "list", "elements": "str", "default": []},
            "service_files": {"type": "dict", "required": True},
            "wheels": {"type": "path", "default": ""},
            "environment": {"type": "dict", "default": {}, "no_log": True},
        },
        supports_check_mode=True,
    )
    builder = Builder(module)
    if os.path.isdir(builder.release):
        module.exit_json(changed=False, path=builder.release)
    if module.check_mode:
        module.exit_json(changed=True, path=builder.release)
    os.umask(0o022)  # the service's account reads it all, whatever root's own umask is
    os.makedirs(builder.releases, exist_ok=True)
    with open(os.path.join(module.params["install_dir"], ".build.lock"), "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        changed = not os.path.isdir(builder.release)
        if changed:
            builder.build()
    module.exit_json(changed=changed, path=builder.release, seconds=builder.seconds)


if __name__ == "__main__":
    main()
