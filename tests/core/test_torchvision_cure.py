"""The hook that lets a CUDA torchvision be imported beside any torch: in a fresh process, in a child, and only once."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path


def run(program: Path, code: str) -> list[str]:
    """The words that a program prints in a fresh Python."""
    program.write_text(textwrap.dedent(code))
    ran = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.split()


def test_torchvision_works_here_and_in_a_spawned_child_and_the_hook_acts_once(tmp_path: Path) -> None:
    said = run(
        tmp_path / "program.py",
        """
        import multiprocessing
        import sys

        from vatt_core import torchvision_cure

        def hooks():
            return sum(type(finder).__module__ == "vatt_core.torchvision_cure" for finder in sys.meta_path)

        def side():
            import torch
            from torchvision.transforms import functional

            return functional.resize(torch.zeros(3, 8, 8), [4, 4]).shape[-1]

        if __name__ == "__main__":
            torchvision_cure.install()
            print(hooks(), "torch" in sys.modules, "torchvision" in sys.modules)
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                child = pool.apply_async(side)
                print(side(), child.get())
            torchvision_cure.install()
            print(hooks())
        """,
    )
    assert said == ["1", "False", "False", "4", "4", "0"]


def test_a_missing_torchvision_stays_missing(tmp_path: Path) -> None:
    said = run(
        tmp_path / "program.py",
        """
        import sys
        import vatt_core

        sys.path[:] = [sys.path[0]]
        sys.path_importer_cache.clear()
        try:
            import torchvision
        except ModuleNotFoundError as error:
            print(error.name, "torch" in sys.modules)
        """,
    )
    assert said == ["torchvision", "False"]
