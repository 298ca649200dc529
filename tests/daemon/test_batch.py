"""Batches over real sockets: errors stay with their item, nothing whole is made twice, whatever dies meanwhile."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from vatt_client import Client, Progress, connection, errors, messages

PIPELINE = "worker.pipeline=batch_pipeline:Pipeline"


def clips(home: Any, count: int) -> list[dict[str, Any]]:
    """Items of as many different clips, prompted by their number."""
    items = []
    for number in range(count):
        clip = home.root / f"clip {number} é.mp4"
        clip.write_bytes(b"a clip %d" % number)
        items.append({"path": str(clip), "prompt": f"number {number}", "output": str(home.output)})
    return items


@pytest.fixture
def batch_home(home: Any) -> Iterator[Any]:
    home.start(PIPELINE)
    yield home


def test_errors_stay_with_their_item_and_the_report_tells_them(batch_home: Any) -> None:
    items = clips(batch_home, 7)
    items[1]["path"] = str(batch_home.root / "missing.mp4")
    items[2]["prompt"] = "error BadMedia"
    items[3]["promt"] = "a typing error"
    items[4] |= {"takes": 99}
    items[5] |= {"seed": 5, "takes": 2}
    seen: list[Progress] = []
    file = batch_home.root / "reports" / "report.json"
    with batch_home.client() as client:
        with batch_home.held() as first:
            report = client.batch(items, report=file, on_progress=seen.append)
        batch = client.get(report.job, history=True)
        listed = client.list(batch=report.job, states=["failed"])
        alone = client.list()
    assert [item.state for item in report.items] == ["done"] + ["failed"] * 4 + ["done"] * 2
    assert [(item.error or {}).get("code") for item in report.items[1:5]] == [
        "input_not_visible", "bad_media", "bad_request", "bad_request",
    ]  # fmt: skip
    assert [(item.error or {})["details"].get("field") for item in report.items[3:5]] == ["promt", "takes"]
    assert [len(item.takes) for item in report.items] == [1, 0, 0, 0, 0, 2, 1]
    assert report.items[5].takes[0].seed == 5
    assert not report.complete and report.counts["done"] == 3 and report.counts["failed"] == 4
    assert json.loads(file.read_text()) == json.loads(json.dumps(report.to_dict())) | {
        "finished": json.loads(file.read_text())["finished"]
    }
    assert batch.state == "done" and batch.result is not None and batch.result["counts"]["failed"] == 4
    assert sorted(job.position or 0 for job in listed) == [1, 2, 3, 4]
    assert [job.id for job in alone] == [report.job, first]  # no items
    assert [progress.done for progress in seen] == sorted(progress.done for progress in seen)
    assert seen[-1].done == 7 and {(progress.total, progress.unit) for progress in seen} == {(7, "clips")}


def test_what_is_whole_is_kept_and_the_rest_made_again(batch_home: Any) -> None:
    items = clips(batch_home, 6)
    with batch_home.client() as client:
        first = client.batch(items)
        assert first.complete and first.counts["kept"] == 0
        batch_home.forget_runs()
        again = client.batch(items)
        assert again.complete and again.counts["kept"] == 6 and batch_home.runs() == []
        assert [item.takes for item in again.items] == [item.takes for item in first.items]

        Path(first.items[0].takes[0].wav).unlink()
        Path(first.items[1].takes[0].wav).write_bytes(b"RIFX")
        Path(first.items[2].takes[0].sidecar).unlink()
        Path(items[3]["path"]).write_bytes(b"another picture")
        items[4]["seed"] = 8
        third = client.batch(items)
        assert third.complete and [item.kept for item in third.items] == [False] * 5 + [True]
        assert sorted(batch_home.runs()) == [f"number {n}" for n in range(5)]

        batch_home.forget_runs()
        assert client.batch(items, resume=False).counts["kept"] == 0
        assert len(batch_home.runs()) == 6


def test_a_batch_survives_kills_of_the_daemon_and_makes_nothing_twice(batch_home: Any) -> None:
    items = [{**item, "prompt": "slow 2"} for item in clips(batch_home, 30)]
    with batch_home.client() as client:
        batch = client.submit_batch(items)
    for kills in range(2):
        batch_home.until(lambda kills=kills: len(batch_home.runs()) >= 6 * (kills + 1))
        batch_home.kill()
        batch_home.start(PIPELINE)
    with batch_home.client() as client:
        assert client.wait(batch).state == "done"
        report = client.report(batch)
        assert report.complete and len(report.items) == 30
        assert client.batch(items).counts["kept"] == 30
    wavs = [take.wav for item in report.items for take in item.takes]
    assert len(set(wavs)) == 30 == len(list(batch_home.output.glob("*.wav")))


def test_a_cancelled_batch_keeps_what_is_made_and_the_next_one_goes_on(batch_home: Any) -> None:
    items = clips(batch_home, 100)
    with batch_home.client() as client:
        batch = client.submit_batch([{**item, "prompt": "slow 10"} for item in items])
        batch_home.until(lambda: len(batch_home.runs()) >= 3)
        assert client.cancel(batch) == "running"
        ended = client.wait(batch)
        assert ended.state == "cancelled"
        report = client.report(batch)
        assert report.counts["done"] >= 2 and report.counts["done"] + report.counts["cancelled"] == 100
        made = len(batch_home.runs())
        assert client.batch([{**item, "prompt": "slow 10"} for item in items[:5]]).counts["kept"] >= 2
        assert len(batch_home.runs()) - made <= 3
        assert client.cancel(batch) == "cancelled"


def test_a_deadline_ends_a_batch(batch_home: Any) -> None:
    items = [{**item, "prompt": "slow 1000"} for item in clips(batch_home, 3)]
    with batch_home.client() as client:
        ended = client.run(messages.Batch(items=tuple(items), deadline=0.5))
        assert ended.state == "cancelled" and (ended.error or {})["details"]["reason"] == "deadline"
        assert {item.state for item in client.report(ended.id).items} == {"cancelled"}


def test_one_key_is_one_batch_and_the_same_content_under_way_is_the_same(batch_home: Any) -> None:
    items = tuple({**item, "prompt": "slow 1000"} for item in clips(batch_home, 2))
    with batch_home.client() as client:
        first = client.submit(messages.Batch(items=items, idempotency_key="a-key"))
        assert client.submit(messages.Batch(items=items, idempotency_key="a-key")) == first
        assert client.submit(messages.Batch(items=items)) == first
        with pytest.raises(errors.BadRequest) as caught:
            client.submit(messages.Batch(items=items[:1], idempotency_key="a-key"))
        assert caught.value.details["field"] == "idempotency_key"
        assert client.submit(messages.Batch(items=items[:1])) != first


@pytest.mark.timeout(900)
def test_ten_thousand_clips_in_one_request_while_others_are_served(batch_home: Any) -> None:
    long = "a folder of some length/" * 5
    items = [{"path": f"/nowhere/{long}{number}.mp4", "output": "/nowhere/out"} for number in range(10_000)]
    answered: list[float] = []
    stop = threading.Event()

    def ping() -> None:
        with batch_home.client() as other:
            while True:
                began = time.monotonic()
                other.ping()
                answered.append(time.monotonic() - began)
                if stop.wait(0.02):
                    break
            assert other.run(batch_home.generate("a job of somebody else")).state == "done"

    thread = threading.Thread(target=ping)
    thread.start()
    with batch_home.client() as client:
        frames = messages.encode(messages.Batch(items=tuple(items)), b"id")
        assert len(frames) > 3 and max(map(len, frames)) <= client.welcome.largest_message
        batch = client.submit_batch(items)
        stop.set()
        thread.join()
        assert client.wait(batch).state == "done"
        report = client.report(batch)
    assert [item.position for item in report.items] == list(range(10_000))
    assert [item.path for item in report.items] == [item["path"] for item in items]
    assert Counter((item.state, (item.error or {})["code"]) for item in report.items) == {
        ("failed", "input_not_visible"): 10_000
    }
    assert answered


def test_the_daemon_reads_a_manifest_by_itself(batch_home: Any) -> None:
    clips(batch_home, 3)
    manifest = batch_home.root / "clips.csv"
    manifest.write_text(
        'path,prompt,output\nclip 0 é.mp4,one,out\nclip 2 é.mp4,"two, with a comma",out\nno clip,three,out\n',
        encoding="utf-8",
    )
    with batch_home.client() as client:
        job = client.run(messages.Batch(manifest=str(manifest)))
        report = client.report(job.id)
        assert [item.state for item in report.items] == ["done", "done", "failed"]
        assert batch_home.runs() == ["one", "two, with a comma"]
        (batch_home.root / "broken.jsonl").write_text('{"path": "a.mp4"}\n{"path": \n')
        for name, kind in [("broken.jsonl", errors.BadRequest), ("missing.jsonl", errors.InputNotVisible)]:
            with pytest.raises(kind):
                client.submit(messages.Batch(manifest=str(batch_home.root / name)))
        with pytest.raises(errors.BadRequest):
            client.submit(messages.Batch(manifest="relative.csv"))
        with pytest.raises(errors.ForbiddenPath):
            client.submit(messages.Batch(manifest=str(manifest), report=str(batch_home.root)))
        with pytest.raises(errors.ForbiddenPath):
            client.submit(messages.Batch(manifest=str(manifest), report=str(batch_home.root / ("long" * 100))))


def test_a_single_job_goes_before_the_items_that_wait(batch_home: Any) -> None:
    items = [{**item, "prompt": "slow 10"} for item in clips(batch_home, 100)]
    with batch_home.client() as client:
        batch = client.submit_batch(items)
        batch_home.until(lambda: len(batch_home.runs()) >= 2)
        assert client.run(batch_home.generate("urgent")).state == "done"
        assert client.get(batch).state == "running"
        client.cancel(batch)
        client.wait(batch)


def test_the_command_reports_and_says_by_its_exit_code_whether_all_is_done(batch_home: Any) -> None:
    items = clips(batch_home, 2)
    manifest = batch_home.root / "clips.jsonl"
    lines = [{"path": Path(item["path"]).name, "prompt": item["prompt"]} for item in items]
    manifest.write_text("\n".join(json.dumps(line) for line in lines))
    ran = batch_home.vatt("batch", str(manifest), "--output", "out", "--json")
    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout)
    assert report["counts"]["done"] == 2 and all(Path(item["takes"][0]["wav"]).exists() for item in report["items"])
    manifest.write_text(manifest.read_text() + '\n{"path": "missing.mp4"}\n')
    ran = batch_home.vatt("batch", str(manifest), "--output", "out", "--report", "report.json")
    assert ran.returncode == 1
    assert [Path(line).suffix for line in ran.stdout.splitlines()] == [".wav", ".wav"]
    assert json.loads((batch_home.root / "report.json").read_text())["counts"]["kept"] == 2
    assert batch_home.vatt("batch", "nothing.jsonl").returncode == 3


def test_a_report_that_cannot_be_written_is_told_and_the_takes_stay(batch_home: Any) -> None:
    [item] = clips(batch_home, 1)
    manifest = batch_home.root / "clips.jsonl"
    manifest.write_text(json.dumps({"path": item["path"], "prompt": "one"}))
    # The name is free when the batch is handed in, and a folder when it ends.
    ran = batch_home.vatt("batch", str(manifest), "--output", "made", "--report", "made")
    assert ran.returncode == 1 and Path(ran.stdout.strip()).is_file()
    assert str(batch_home.root / "made") in ran.stderr
    with batch_home.client() as client, contextlib.suppress(errors.ForbiddenPath):
        ended = client.run(messages.Batch(items=(item,), report="/proc/no-such-folder/report.json"))
        assert ended.result is not None and ended.result["report_error"]["code"] != "internal"


def test_ctrl_c_cancels_the_rest_of_a_batch(batch_home: Any) -> None:
    items = [{**item, "prompt": "slow 1000"} for item in clips(batch_home, 3)]
    manifest = batch_home.root / "clips.jsonl"
    manifest.write_text("\n".join(json.dumps(item) for item in items))
    command = subprocess.Popen(
        [sys.executable, "-m", "vatt_daemon.cli", "batch", str(manifest)],
        env=batch_home.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    batch_home.until(batch_home.runs)
    command.send_signal(signal.SIGINT)
    assert command.wait(90) == 130
    with batch_home.client() as client:
        batch_home.until(lambda: [job.state for job in client.list()] == ["cancelled"])


def test_items_whose_batch_was_never_acknowledged_are_removed(batch_home: Any) -> None:
    from vatt_daemon.batch_store import BatchStore, NewItem

    batch_home.processes[-1].terminate()
    batch_home.processes[-1].wait(60)
    database = batch_home.root / "home" / "data" / "jobs.sqlite"
    store = BatchStore(database, instance="test")
    request = messages.pack(batch_home.generate("never").to_wire())
    store.add_items("f" * 32, [NewItem(0, request, b"x", 1, None)], client="local", priority="batch")
    store.close()
    batch_home.start(PIPELINE)
    with batch_home.client() as client:
        assert client.status().counts["queued"] == 0
        with pytest.raises(errors.NotFound):
            client.list(batch="f" * 32)
        assert client.run(batch_home.generate("next")).state == "done"
    assert batch_home.runs() == ["next"]


def test_a_batch_needs_items(batch_home: Any) -> None:
    with batch_home.client() as client:
        for empty in ([], {"manifest": None}):
            with pytest.raises(errors.BadRequest):
                client.submit(messages.Batch(**empty) if isinstance(empty, dict) else messages.Batch(items=()))
    assert connection.read_connection(batch_home.file)


def test_ten_lines_of_python_do_it(batch_home: Any) -> None:
    page = (Path(__file__).parents[2] / "docs" / "scripting.md").read_text(encoding="utf-8")
    code = page.split("```python\n")[1].split("```")[0]
    assert len(code.strip().splitlines()) <= 10
    items = clips(batch_home, 2)
    (batch_home.root / "clips.jsonl").write_text("\n".join(json.dumps(item) for item in items))
    ran = subprocess.run(
        [sys.executable, "-c", code], env=batch_home.environment, cwd=batch_home.root, capture_output=True, text=True,
        timeout=240, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert len(list(batch_home.output.glob("*.wav"))) == 2


@pytest.mark.timeout(600)
def test_two_clients_at_once_do_not_slow_each_other(batch_home: Any) -> None:
    """Two batches under way take turns: neither waits for the end of the other."""
    first, second = ([{**item, "prompt": f"of {name}"} for item in clips(batch_home, 400)] for name in "ab")
    with batch_home.client() as one, batch_home.client() as two:
        jobs = [one.submit_batch(first), two.submit_batch(second)]
        batch_home.until(lambda: len(batch_home.runs()) >= 160, seconds=500)
        made = Counter(prompt[-1] for prompt in batch_home.runs())
        assert made["a"] and made["b"]
        for client, job in zip((one, two), jobs, strict=True):
            client.cancel(job)
            client.wait(job)


def test_a_client_that_goes_away_leaves_its_batch_to_the_daemon(batch_home: Any) -> None:
    with batch_home.client() as client:
        batch = client.submit_batch(clips(batch_home, 3))
    with batch_home.client() as other:
        assert isinstance(other, Client) and other.wait(batch).state == "done"
        assert other.report(batch).complete
