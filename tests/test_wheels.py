"""The programs of wheels/ as far as they can be tried in seconds: archives, the SBOM, what is read from machine code.

Also the table of pyproject.toml, and setup.py on platforms that are not this one. `make check-wheels` and `make test-aarch64` do
the rest.
"""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "wheels"))

import archives  # noqa: E402
import machine_code  # noqa: E402
import pythons  # noqa: E402
import sbom  # noqa: E402
import targets  # noqa: E402

DATE = 1_700_000_000
FILES = {
    "fastlstm/_core.abi3.so": b"\x7fELF",
    "fastlstm/__init__.py": b"'a'",
    "fastlstm-1.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: cp311-abi3-linux_x86_64\n\n",
    "fastlstm-1.dist-info/RECORD": b"old",
}
MADE_WITH = {"Cython": "3.3", "numpy": "2.4", "setuptools": "84", "ziglang": "0.17", "Python": "3.11"}


def pyproject():
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


# -- archives -------------------------------------------------------------------------------------------------------------
def test_a_wheel_depends_on_nothing_but_its_files(tmp_path):
    one, two = tmp_path / "one.whl", tmp_path / "two.whl"
    archives.write_wheel(one, FILES, DATE)
    archives.write_wheel(two, dict(reversed(FILES.items())), DATE)
    assert one.read_bytes() == two.read_bytes()
    archives.write_wheel(two, FILES, DATE + 2)
    assert one.read_bytes() != two.read_bytes()


def test_a_wheel_has_dates_modes_order_and_a_record(tmp_path):
    archives.write_wheel(tmp_path / "one.whl", FILES, DATE)
    with zipfile.ZipFile(tmp_path / "one.whl") as archive:
        assert archive.testzip() is None
        entries = archive.infolist()
    assert [entry.filename for entry in entries] == [
        "fastlstm/__init__.py",
        "fastlstm/_core.abi3.so",
        "fastlstm-1.dist-info/WHEEL",
        "fastlstm-1.dist-info/RECORD",
    ]
    assert {entry.date_time for entry in entries} == {(2023, 11, 14, 22, 13, 20)}
    assert [entry.external_attr >> 16 & 0o777 for entry in entries] == [0o644, 0o755, 0o644, 0o644]
    rows = archives.read_wheel(tmp_path / "one.whl")["fastlstm-1.dist-info/RECORD"].decode().splitlines()
    # printf "'a'" | openssl dgst -sha256 -binary | basenc --base64url
    assert "fastlstm/__init__.py,sha256=10mSn-lLmjfb5ddMspetJLRuRniYVF9OEJ6yGDUEasQ,3" in rows
    assert rows[-1] == "fastlstm-1.dist-info/RECORD,,"
    assert len(rows) == len(FILES)


def test_the_tags_of_a_wheel_are_replaced():
    text = archives.retagged(FILES["fastlstm-1.dist-info/WHEEL"], ["cp311-abi3-a", "cp311-abi3-b"])
    assert text == b"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: cp311-abi3-a\nTag: cp311-abi3-b\n"


def test_an_sdist_depends_on_nothing_but_its_files(tmp_path):
    one, two = tmp_path / "one.tar.gz", tmp_path / "two.tar.gz"
    files = {"a-1/b": b"#!/bin/sh\n", "a-1/a": b"text", "a-1/ü": b""}
    archives.write_sdist(one, files, DATE)
    archives.write_sdist(two, dict(reversed(files.items())), DATE)
    assert one.read_bytes() == two.read_bytes()
    assert archives.read_sdist(one) == files
    with tarfile.open(one) as archive:
        entries = archive.getmembers()
    assert [(entry.name, entry.mode, entry.mtime, entry.uid, entry.uname) for entry in entries] == [
        ("a-1/a", 0o644, DATE, 0, ""),
        ("a-1/b", 0o755, DATE, 0, ""),
        ("a-1/ü", 0o644, DATE, 0, ""),
    ]
    folder = archives.unpack_sdist(one, tmp_path)
    assert folder == tmp_path / "one"
    assert (tmp_path / "a-1/a").read_bytes() == b"text"


def test_an_sdist_is_not_unpacked_outside_its_folder(tmp_path):
    archives.write_sdist(tmp_path / "bad.tar.gz", {"../outside": b""}, DATE)
    with pytest.raises(ValueError, match="leads out of its folder"):
        archives.unpack_sdist(tmp_path / "bad.tar.gz", tmp_path / "in")
    assert not (tmp_path / "outside").exists()


def test_the_date_of_the_sources(tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1234567890")
    assert archives.source_date(tmp_path) == 1234567890
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    assert archives.source_date(tmp_path) == archives.OLDEST
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    assert archives.source_date(tmp_path) == archives.FIXED_DATE
    for key in [key for key in os.environ if key.startswith("GIT_")]:
        monkeypatch.delenv(key)
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], [*identity, "commit", "-q", "--allow-empty", "-m", "m", "--no-gpg-sign"]):
        date = os.environ | {"GIT_COMMITTER_DATE": "@1600000000 +0000"}
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True, env=date)
    assert archives.source_date(tmp_path) == 1600000000


# -- the bill of materials --------------------------------------------------------------------------------------------------
def test_the_sbom_says_what_is_in_the_wheel_and_what_made_it():
    bill = json.loads(sbom.bill("1.2", FILES, MADE_WITH, DATE))
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    product = bill["metadata"]["component"]
    assert (product["name"], product["version"], product["purl"]) == ("fastlstm", "1.2", "pkg:pypi/fastlstm@1.2")
    (module,) = product["components"]
    assert module["name"] == "fastlstm/_core.abi3.so"
    # printf '\x7fELF' | sha256sum
    digest = "3bdbb4fe8397cd2b842430b39ccff01a8663c751945ef5e9a09e267fb8b1d359"
    assert module["hashes"] == [{"alg": "SHA-256", "content": digest}]
    assert {part["name"]: part["version"] for part in bill["components"]} == {"Cython": "3.3", "numpy": "2.4"}
    tools = {tool["name"]: tool["version"] for tool in bill["metadata"]["tools"]["components"]}
    assert tools == {"setuptools": "84", "ziglang": "0.17", "Python": "3.11"}
    assert bill["metadata"]["timestamp"] == "2023-11-14T22:13:20Z"
    references = {part["bom-ref"] for part in [product, *bill["components"]]}
    assert {entry["ref"] for entry in bill["dependencies"]} == references


def test_equal_wheels_have_equal_sboms_and_others_another():
    bill = sbom.bill("1.2", FILES, MADE_WITH, DATE)
    assert bill == sbom.bill("1.2", dict(reversed(FILES.items())), dict(reversed(MADE_WITH.items())), DATE)
    other = sbom.bill("1.2", {**FILES, "fastlstm/_core.abi3.so": b"other"}, MADE_WITH, DATE)
    serial = re.compile(r'"serialNumber": "(urn:uuid:[\da-f-]{36})"')
    assert serial.search(bill.decode())[1] != serial.search(other.decode())[1]


# -- targets ------------------------------------------------------------------------------------------------------------------
def test_the_four_wheels():
    assert {name: target.zig for name, target in targets.TARGETS.items()} == {
        "manylinux2014_x86_64": "x86_64-linux-gnu.2.17",
        "musllinux_1_2_x86_64": "x86_64-linux-musl",
        "manylinux2014_aarch64": "aarch64-linux-gnu.2.17",
        "musllinux_1_2_aarch64": "aarch64-linux-musl",
    }
    for target in targets.TARGETS.values():
        assert targets.of_wheel(target.filename("1.2")) is target
    assert targets.TARGETS["manylinux2014_aarch64"].kernels == ("generic", "neon")
    assert targets.TARGETS["musllinux_1_2_x86_64"].kernels == ("generic", "avx2", "avx512")
    with pytest.raises(ValueError, match="no wheel of"):
        targets.of_wheel("fastlstm-1-cp311-abi3-linux_x86_64.whl")


def test_the_kernels_named_are_those_of_the_sources():
    named = {"generic", *(isa for kernels in targets.KERNELS.values() for isa in kernels)}
    assert named == {path.stem.removeprefix("kernels_") for path in (ROOT / "pyx").glob("kernels_*.c")}


# -- machine code -------------------------------------------------------------------------------------------------------------
# Encodings as an assembler gives them.
NEON = [0x4E22CC20, 0x4E62CC20, 0x4F821020, 0x4FC21820]  # fmla v0.4s,v1,v2; .2d; v0.4s,v1.4s,v2.s[0]; v0.2d,v1.2d,v2.d[1]
NOT_NEON = [0x4E22D420, 0x4EA2CC20, 0xD503201F, 0x1F020C20]  # fadd, fmls, nop, fmadd on single numbers
YMM, ZMM = bytes.fromhex("c4e26db8d9"), bytes.fromhex("62f26d48b8d9")  # vfmadd231ps of ymm, zmm
XMM, SCALAR = bytes.fromhex("c4e269b8d9"), bytes.fromhex("c4e269b9d9")


def test_multiply_adds_are_counted_in_machine_code():
    assert machine_code.count_neon(struct.pack("<8I", *NEON, *NOT_NEON)) == len(NEON)
    assert machine_code.count_avx2(YMM + ZMM + XMM + SCALAR + YMM) == 2
    assert machine_code.count_avx512(YMM + ZMM + XMM + SCALAR + ZMM) == 2


# -- pyproject.toml, MANIFEST.in ------------------------------------------------------------------------------------------
def test_the_table_of_cibuildwheel():
    table = pyproject()["tool"]["cibuildwheel"]
    assert table["build"] == ["cp311-*", "cp314t-*"]
    assert set(table["linux"]["archs"]) == {"x86_64", "aarch64", "armv7l"}
    assert set(table["macos"]["archs"]) == {"arm64", "x86_64"}
    assert table["windows"]["archs"] == ["AMD64"]
    program, argument = re.fullmatch(r"python \{project\}/(\S+) \{project\}/(\S+)", table["test-command"]).groups()
    assert (ROOT / program).is_file()
    assert (ROOT / argument / "golden_cases.py").is_file()


def test_the_manifest_takes_all_that_git_tracks():
    """But .ci and files whose names begin with a dot."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs the git repository of the sources")
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=True).stdout.splitlines()
    manifest = (ROOT / "MANIFEST.in").read_text().splitlines()
    grafted = {line.split()[1] for line in manifest if line.startswith("graft")}
    folders = {name.split("/")[0] for name in listed if "/" in name and not name.startswith(".")}
    assert grafted == folders
    included = next(line for line in manifest if line.startswith("include")).split()[1:]
    top = [name for name in listed if "/" not in name and not name.startswith(".")]
    assert not [name for name in top if not any(Path(name).match(pattern) for pattern in included)]


def test_the_wheels_environment_pins_every_tool():
    lines = (ROOT / "wheels/requirements.txt").read_text().splitlines()
    pinned = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+(\[[\w-]+\])?==[\d.]+", line) for line in pinned)
    names = {re.match(r"[\w-]+", line)[0].lower() for line in pinned}
    assert {"build", "cython", "numpy", "setuptools", "ziglang", "auditwheel", "abi3audit", "check-wheel-contents"} <= names
    numpy = next(line for line in pinned if line.startswith("numpy=="))
    assert numpy in (ROOT / "wheels/requirements-aarch64.txt").read_text().splitlines()


# -- setup.py on other platforms ----------------------------------------------------------------------------------------------
# Runs setup.py with a platform that is made up, and prints the one extension and setup's arguments.
PRETEND = """
import json, runpy, sys, sysconfig, types
import numpy, setuptools.command.build_ext

free_threaded, sys.platform = json.loads(sys.argv[1])
config = sysconfig.get_config_var
sysconfig.get_config_var = lambda name: free_threaded if name == "Py_GIL_DISABLED" else config(name)
sys.modules["Cython"] = types.ModuleType("Cython")
build = sys.modules["Cython.Build"] = types.ModuleType("Cython.Build")
build.cythonize = lambda extensions, **keywords: extensions
told = {}
setuptools.setup = lambda **keywords: told.update(keywords)
runpy.run_path("setup.py")
(core,) = told["ext_modules"]
print(json.dumps({
    "abi3": core.py_limited_api, "macros": dict(core.define_macros), "compile": core.extra_compile_args,
    "link": core.extra_link_args, "libraries": core.libraries, "options": told["options"],
}))
"""


def extension(platform, free_threaded=0):
    pytest.importorskip("setuptools", reason="setup.py needs setuptools, which is not installed")
    command = [sys.executable, "-c", PRETEND, json.dumps([free_threaded, platform])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_linux_gets_abi3():
    told = extension("linux")
    assert told["abi3"] is True
    assert told["macros"]["Py_LIMITED_API"] == "0x030B0000"
    assert told["options"] == {"bdist_wheel": {"py_limited_api": "cp311"}}
    assert "-ffp-contract=off" in told["compile"]
    assert (told["link"], told["libraries"]) == (["-pthread"], ["m"])


@pytest.mark.parametrize("platform", ["linux", "win32", "darwin"])
def test_free_threaded_pythons_get_no_abi3(platform):
    told = extension(platform, free_threaded=1)
    assert told["abi3"] is False
    assert "Py_LIMITED_API" not in told["macros"]
    assert told["options"] == {}


def test_windows_gets_the_flags_of_clang_cl():
    told = extension("win32")
    assert told["abi3"] is True
    assert told["compile"][0] == "/O2"
    assert all(flag.startswith("/clang:-") for flag in told["compile"][1:])
    assert "/clang:-ffp-contract=off" in told["compile"]
    assert (told["link"], told["libraries"]) == ([], [])


# -- Pythons ------------------------------------------------------------------------------------------------------------------
def test_this_python_is_found():
    base = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    found = {python.executable: python for python in pythons.find([base])}
    assert base in found
    assert found[base].version == sys.version_info[:3]
    assert all(python.version >= (3, 11) for python in found.values())
