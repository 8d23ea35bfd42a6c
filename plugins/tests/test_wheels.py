"""Which files of a wheelhouse a machine needs."""

from ansible_collections.mlops.mlflow.plugins.module_utils.wheels import wheels

LOCK = """
# a comment
--only-binary :all:
pure==1.0 \\
    --hash=sha256:aa \\
    --hash=sha256:bb
Built.Thing==2.0 ; python_full_version >= '3.11' \\
    --hash=sha256:cc
windows==3.0 ; sys_platform == 'win32' \\
    --hash=sha256:dd
"""
PURE = "pure-1.0-py3-none-any.whl"
BUILT = "built_thing-2.0-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl"
STABLE = "built_thing-2.0-cp39-abi3-manylinux_2_28_x86_64.whl"


def test_needed_files_are_named_and_no_others():
    files = [PURE, BUILT, "pure-0.9-py3-none-any.whl", "other-1.0-py3-none-any.whl", "notes.txt", "wrong.whl"]
    assert wheels(LOCK, files, "3.11", "x86_64") == {"files": [BUILT, PURE], "missing": []}


def test_wheel_for_another_python_or_processor_or_c_library_is_missing():
    for python, machine in (("3.12", "x86_64"), ("3.11", "aarch64")):
        assert wheels(LOCK, [PURE, BUILT], python, machine)["missing"] == ["Built.Thing==2.0"]
    newer = BUILT.replace("manylinux_2_17_x86_64.manylinux2014_x86_64", "manylinux_2_39_x86_64")
    assert wheels(LOCK, [PURE, newer], "3.11", "x86_64")["missing"] == ["Built.Thing==2.0"]


def test_wheel_of_the_stable_abi_serves_later_pythons():
    assert wheels(LOCK, [PURE, STABLE], "3.13", "x86_64") == {"files": [STABLE, PURE], "missing": []}


def test_package_for_another_python_is_not_wanted():
    assert wheels(LOCK, [PURE], "3.10", "x86_64") == {"files": [PURE], "missing": []}


def test_bound_between_patch_releases_is_wanted():
    lock = "pure==1.0 ; python_full_version < '3.11.3' --hash=sha256:aa\n"
    assert wheels(lock, [], "3.11", "x86_64")["missing"] == ["pure==1.0"]
    assert wheels(lock, [], "3.12", "x86_64")["missing"] == []


def test_extra_packages_bring_what_the_lock_does_not_name():
    files = [PURE, BUILT, "more-1.5-py3-none-any.whl", "its_needs-1.0-py3-none-any.whl"]
    found = wheels(LOCK, files, "3.11", "x86_64", ["more[all]>=1 --hash=sha256:ee"])
    assert found == {"files": sorted(files), "missing": []}
    assert wheels(LOCK, files, "3.11", "x86_64", ["more==2.0"])["missing"] == ["more==2.0"]


def test_extra_package_by_address_is_not_in_a_wheelhouse():
    given = ["more @ https://example.invalid/more-1.5-py3-none-any.whl"]
    assert wheels("", ["more-1.5-py3-none-any.whl"], "3.11", "x86_64", given)["missing"] == ["more"]
