"""The files of a job: all or none, once, whatever moment the worker dies at."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from vatt_daemon import outputs as module
from vatt_daemon.outputs import Outputs

from vatt_core.errors import DiskFull
from vatt_core.media.atomic import writing_error


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def outputs(tmp_path: Path) -> Outputs:
    (tmp_path / "receipts").mkdir()
    (tmp_path / "out").mkdir()
    return Outputs(tmp_path / "out", "job", receipts=tmp_path / "receipts")


def make(outputs: Outputs, *, takes: int = 2) -> dict[str, Any]:
    """What a pipeline does: takes and their side-cars in the hidden folder."""
    folder = outputs.begin()
    folder.mkdir()
    told = []
    for number in range(1, takes + 1):
        wav, sidecar = folder / f"clip-take-{number}.wav", folder / f"clip-take-{number}.json"
        wav.write_bytes(b"sound %d" % number)
        sidecar.write_text(json.dumps({"wav": wav.name, "n": number}))
        told.append({"wav": str(wav), "sidecar": str(sidecar), "seed": number})
    return {"takes": told}


def everything(outputs: Outputs) -> list[str]:
    return sorted(str(path.relative_to(outputs.folder)) for path in outputs.folder.rglob("*"))


TWO = ["clip-take-1.json", "clip-take-1.wav", "clip-take-2.json", "clip-take-2.wav"]


def test_files_get_their_names_together_and_the_result_tells_them(outputs: Outputs) -> None:
    result = outputs.publish(make(outputs))
    assert everything(outputs) == TWO
    assert [Path(take["wav"]).read_bytes() for take in result["takes"]] == [b"sound 1", b"sound 2"]


def test_errors_name_the_output_folder_and_not_the_hidden_one(outputs: Outputs) -> None:
    with pytest.raises(DiskFull) as caught, outputs.unmentioned():
        raise writing_error(outputs.begin() / "clip-take-1.wav", OSError(errno.ENOSPC, "full"))
    assert str(outputs.folder / "clip-take-1.wav") in caught.value.message


def test_nothing_is_overwritten_and_side_cars_name_their_own_file(outputs: Outputs) -> None:
    (outputs.folder / "clip-take-1.wav").write_bytes(b"somebody's")
    (outputs.folder / "clip-take-3.json").write_bytes(b"somebody's")
    result = outputs.publish(make(outputs))
    assert (outputs.folder / "clip-take-1.wav").read_bytes() == b"somebody's"
    assert [Path(take["wav"]).name for take in result["takes"]] == ["clip-take-2.wav", "clip-take-4.wav"]
    for number, take in enumerate(result["takes"], 1):
        assert json.loads(Path(take["sidecar"]).read_text()) == {"wav": Path(take["wav"]).name, "n": number}
        assert Path(take["wav"]).read_bytes() == b"sound %d" % number


def test_a_name_that_is_taken_at_the_last_moment_is_left_to_its_owner(
    outputs: Outputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, taken = os.link, outputs.folder / "clip-take-2.wav"

    def late(source: Path, target: Path) -> None:
        if Path(target) == taken and not taken.exists():
            taken.write_bytes(b"somebody's")
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    result = outputs.publish(make(outputs))
    assert taken.read_bytes() == b"somebody's"
    assert [Path(take["wav"]).read_bytes() for take in result["takes"]] == [b"sound 1", b"sound 2"]
    assert len(everything(outputs)) == 5


def steps_of(monkeypatch: pytest.MonkeyPatch, fatal: int) -> list[int]:
    """Make the `fatal`-th call that changes the disk the last one of this process; counts the calls."""
    calls = [0]

    def wrap(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def step(*arguments: Any, **options: Any) -> Any:
            calls[0] += 1
            if calls[0] >= fatal:
                raise Killed  # and whatever would have been tidied on the way out is not
            return real(*arguments, **options)

        monkeypatch.setattr(owner, name, step)

    for owner, name in [(os, "link"), (os, "replace"), (os, "rename"), (module.shutil, "rmtree"),
                        (Path, "unlink"), (module, "_sync_folder")]:  # fmt: skip
        wrap(owner, name)
    return calls


@pytest.mark.parametrize("links", [True, False])
def test_killed_at_any_step_the_next_attempt_ends_with_each_take_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    fatal, finished_without_rerun = 0, 0
    while True:
        fatal += 1
        (tmp_path / str(fatal) / "receipts").mkdir(parents=True)
        (tmp_path / str(fatal) / "out").mkdir()
        outputs = Outputs(tmp_path / str(fatal) / "out", "job", receipts=tmp_path / str(fatal) / "receipts")
        (outputs.folder / "clip-take-1.wav").write_bytes(b"somebody's")
        result = make(outputs)
        with monkeypatch.context() as patch:
            if not links:
                patch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(module.errno.EPERM, "no links")))
            calls = steps_of(patch, fatal)
            with contextlib.suppress(Killed):
                outputs.publish(result)
            if calls[0] < fatal:
                break
        found = outputs.finished()
        finished_without_rerun += found is not None
        if found is None:
            found = outputs.publish(make(outputs))
        outputs.settle()
        assert [Path(take["wav"]).read_bytes() for take in found["takes"]] == [b"sound 1", b"sound 2"]
        assert everything(outputs) == ["clip-take-1.wav", "clip-take-2.json", "clip-take-2.wav", "clip-take-3.json",
                                       "clip-take-3.wav"]  # fmt: skip
        assert (outputs.folder / "clip-take-1.wav").read_bytes() == b"somebody's"
        assert not list((tmp_path / str(fatal) / "receipts").iterdir())
    assert fatal > 10 and finished_without_rerun > 3


def test_what_is_given_up_leaves_nothing_of_its_own_and_everything_of_others(outputs: Outputs) -> None:
    result = make(outputs)
    outputs.publish(result)
    (outputs.folder / "clip-take-1.wav").write_bytes(b"worked on by its user since")
    outputs.staging.mkdir()
    outputs.discard()
    assert everything(outputs) == ["clip-take-1.wav"]
