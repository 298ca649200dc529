"""Nothing that comes through a socket, out of a clip or out of the cache is read by a format that can run a program."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNTRUSTED = (
    "daemon/vatt_daemon",
    "plugins/vatt_client",
    "vatt_core/media",
    "vatt_core/cache.py",
    "vatt_core/earlier.py",
)
THAT_RUN_PROGRAMS = {
    "pickle",
    "_pickle",
    "cloudpickle",
    "dill",
    "marshal",
    "shelve",
    "jsonpickle",
    "msgpack_numpy",
    "yaml",
}
"""multiprocessing is no door for strangers, but its queues pickle: what passes media on between processes must not use it."""


def sources() -> Iterator[Path]:
    for name in UNTRUSTED:
        yield from sorted((ROOT / name).rglob("*.py")) if (ROOT / name).is_dir() else [ROOT / name]


def dangers(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
            yield f"call {ast.unparse(node.func)}"
            yield from (f"option {keyword.arg}" for keyword in node.keywords)


@pytest.mark.parametrize("file", list(sources()), ids=lambda file: file.relative_to(ROOT).as_posix())
def test_no_format_that_runs_programs_is_read(file: Path) -> None:
    for found in dangers(ast.parse(file.read_text(encoding="utf-8"))):
        assert not {*found.split(".")} & (THAT_RUN_PROGRAMS | {"multiprocessing"}), found
        assert found not in ("call eval", "call exec", "call torch.load", "option allow_pickle"), found
