"""Build the extension: one zip for each platform, by Blender's own extension command.

    python plugins/blender/build.py --bpy build/editors/4.5/bin/python

--bpy: a Python that has the `bpy` wheel, in which Blender's command lies. Wheels of pyzmq and msgpack are fetched with
pip for every platform and Python that Blender and distributors ship; the client goes in as a wheel of its own.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SOURCE = HERE / "vatt_sequencer"
CLIENT = HERE.parent / "vatt_client"

PLATFORMS = {
    "linux-x64": ["manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64"],
    "linux-arm64": ["manylinux_2_28_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64"],
    "macos-x64": ["macosx_10_15_universal2", "macosx_10_9_universal2", "macosx_10_15_x86_64", "macosx_10_9_x86_64"],
    "macos-arm64": ["macosx_11_0_arm64", "macosx_11_0_universal2", "macosx_10_15_universal2"],
    "windows-x64": ["win_amd64"],
}
PYTHONS = ["3.11", "3.13", "3.14"]
"""Blender 4.2 to 5.0; 5.1 and 5.2; Linux distributions that build Blender with their own."""
LIBRARIES = ["pyzmq", "msgpack"]


def pinned(name: str) -> str:
    """The requirement of constraints.txt, so that the extension carries what the tests ran with."""
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line.split("==")[0].strip().lower() == name:
            return line.strip()
    raise SystemExit(f"{name} is not in constraints.txt")


def fetch(folder: Path, platforms: Sequence[str]) -> list[Path]:
    """The libraries' wheels for these platforms. What an earlier run fetched is taken as it is."""
    requirements = [pinned(name) for name in LIBRARIES]

    def one(platform: str, python: str) -> list[Path]:
        target = folder / platform / python
        done = target / "fetched.txt"
        if not done.is_file() or done.read_text().split() != requirements:
            shutil.rmtree(target, ignore_errors=True)
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
            command += ["--only-binary=:all:", "--implementation", "cp", "--python-version", python]
            command += ["--dest", str(target), *(f"--platform={tag}" for tag in PLATFORMS[platform])]
            subprocess.run([*command, *requirements], check=True)
            done.write_text("\n".join(requirements))
        return list(target.glob("*.whl"))

    pairs = [(platform, python) for platform in platforms for python in PYTHONS]
    with ThreadPoolExecutor(4) as pool:  # pip mostly waits for the network
        found = [wheel for wheels in pool.map(lambda pair: one(*pair), pairs) for wheel in wheels]
    return sorted({wheel.name: wheel for wheel in found}.values(), key=lambda wheel: wheel.name)


def version() -> str:
    with (ROOT / "pyproject.toml").open("rb") as file:
        return str(tomllib.load(file)["project"]["version"])


def client_wheel(folder: Path) -> Path:
    """The thin client as a wheel (PEP 427), the same bytes for the same source."""
    info = f"vatt_client-{version()}.dist-info"
    sources = (path for path in sorted(CLIENT.rglob("*")) if path.is_file() and "__pycache__" not in path.parts)
    files = {path.relative_to(CLIENT.parent).as_posix(): path.read_bytes() for path in sources}
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: vatt_client\nVersion: {version()}\n".encode()
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: vatt\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    record = ""
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record += f"{name},sha256={digest},{len(data)}\n"
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    wheel = folder / f"vatt_client-{version()}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), data, zipfile.ZIP_DEFLATED)
    return wheel


def stage(folder: Path, wheels: list[Path], platforms: Sequence[str]) -> None:
    """The extension's folder as Blender's command wants it."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(SOURCE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "wheels").mkdir()
    for wheel in wheels:
        shutil.copy2(wheel, folder / "wheels")
    wheels = [*wheels, client_wheel(folder / "wheels")]
    shutil.copy2(ROOT / "LICENSE", folder)
    manifest = (HERE / "blender_manifest.toml").read_text()
    lines = "".join(f'  "./wheels/{wheel.name}",\n' for wheel in wheels)
    # Keys of the root table must come before the first table.
    head, table, tail = manifest.partition("[permissions]")
    head += f"platforms = {json.dumps(list(platforms))}\n"
    (folder / "blender_manifest.toml").write_text(f"{head}wheels = [\n{lines}]\n\n{table}{tail}")


def extension_command(python: Path) -> Path:
    """Blender's `extension` command inside the bpy wheel."""
    found = sorted(
        python.parent.parent.glob("lib/python*/site-packages/bpy/*/scripts/addons_core/bl_pkg/cli/blender_ext.py")
    )
    if not found:
        raise SystemExit(f"{python} has no bpy wheel: make build/editors/4.5/.ready")
    return found[0]


def build(python: Path, output: Path, work: Path, platforms: Sequence[str]) -> list[Path]:
    """One validated zip per platform in `output`."""
    stage(work / "vatt", fetch(work / "wheels", platforms), platforms)
    command = [str(python), str(extension_command(python))]
    output.mkdir(parents=True, exist_ok=True)
    for old in output.glob("vatt-*.zip"):
        old.unlink()
    subprocess.run([*command, "validate", str(work / "vatt")], check=True)
    options = ["--source-dir", str(work / "vatt"), "--output-dir", str(output), "--split-platforms"]
    subprocess.run([*command, "build", *options], check=True)
    made = sorted(output.glob("vatt-*.zip"))
    for path in made:
        subprocess.run([*command, "validate", str(path)], check=True)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bpy", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=ROOT / "dist" / "blender")
    parser.add_argument("--platform", action="append", choices=list(PLATFORMS), help="left out: all")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "blender")
    options = parser.parse_args()
    platforms = options.platform or list(PLATFORMS)
    for path in build(options.bpy.absolute(), options.output.absolute(), options.work.absolute(), platforms):
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
