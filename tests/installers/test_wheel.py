"""The wheel that is built from the repository: what is installed without a checkout."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_wheel_holds_all_packages_and_the_model_and_asks_for_no_torch(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    (path,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        names = set(wheel.namelist())
        (metadata,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        about = Parser().parsestr(wheel.read(metadata).decode())
        (entries,) = [wheel.read(name).decode() for name in names if name.endswith("entry_points.txt")]
    packages = {name.split("/")[0] for name in names if not name.split("/")[0].endswith(".dist-info")}
    assert packages == {"vatt_core", "vatt_daemon", "vatt_client", "vatt_watch", "vatt_resolve", "vatt_installers"}
    for package in packages:
        assert {f"{package}/__init__.py", f"{package}/py.typed"} <= names
    shipped = [path for path in (ROOT / "vatt_core" / "nano").rglob("*") if path.is_file()]
    assert shipped and {str(path.relative_to(ROOT)) for path in shipped} <= names
    assert {"vatt_core/weights/models.toml", "vatt_core/evaluation/judge.safetensors"} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names) and any(
        name.endswith("licenses/NOTICE") for name in names
    )
    needed = [text for text in about.get_all("Requires-Dist", []) if "extra ==" not in text]
    assert {text.partition(">")[0].partition("<")[0] for text in needed} == {"pyzmq", "msgpack"}
    assert "vatt = vatt_daemon.cli:main" in entries
