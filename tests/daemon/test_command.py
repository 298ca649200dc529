"""The `vatt` command as a user meets it: real processes, exit codes, one plain sentence for each problem."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from vatt_client import connection
from vatt_daemon.cli import main

from vatt_core.media.probe import probe


def plain(ran: subprocess.CompletedProcess[str], code: int) -> str:
    """The one sentence of a refusal: nothing on standard output, one line without a traceback."""
    assert ran.returncode == code, ran.stderr
    assert ran.stdout == ""
    lines = [line for line in ran.stderr.splitlines() if line and line != "starting the daemon"]
    assert len(lines) == 1, ran.stderr
    return lines[0]


def test_generate_starts_the_daemon_and_status_and_stop_end_it(home: Any) -> None:
    assert home.vatt("daemon", "status").returncode == 7
    made = home.vatt("generate", "clip.mp4", "--prompt", "rain", "--output", "out", "--seed", "4", "--takes", "2")
    assert made.returncode == 0, made.stderr
    files = [Path(line) for line in made.stdout.split()]
    assert len(files) == 2 and all(file.is_file() and file.is_absolute() for file in files)
    status = json.loads(home.vatt("daemon", "status", "--json").stdout)
    assert status["counts"]["done"] == 1
    again = home.vatt("daemon", "start")
    assert again.returncode == 0 and str(status["pid"]) in again.stdout
    suggested = json.loads(home.vatt("suggest", "clip.mp4", "--count", "2", "--json").stdout)
    assert [item["text"] for item in suggested["captions"]] == ["caption 0", "caption 1"]
    assert home.vatt("daemon", "stop").returncode == 0
    assert not connection.process_exists(status["pid"])
    assert home.vatt("daemon", "stop").returncode == 0


def test_wrong_calls_are_refused_before_a_daemon_is_started(
    home: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VATT_HOME", home.environment["VATT_HOME"])
    monkeypatch.chdir(home.root)
    (home.root / "file").write_bytes(b"")
    wrong = [
        (("suggest", "missing.mp4"), 3, "missing.mp4"),
        (("suggest", "."), 3, "folder"),
        (("suggest", "clip.mp4", "--count", "0"), 2, "--count"),
        (("suggest", "clip.mp4", "--in", "nan"), 2, "--in"),
        (("suggest", "clip.mp4", "--in", "-1"), 2, "--in"),
        (("suggest", "clip.mp4", "--in", "3", "--out", "3"), 2, "empty"),
        (("suggest", "clip.mp4", "--in", "3", "--out", "2"), 2, "--out must come after --in"),
        (("suggest", "clip.mp4", "--out", "1/0"), 2, "--out"),
        (("suggest", "clip.mp4", "--model", "unheard-of"), 3, "nano"),
        (("suggest", "clip.mp4", "--model", "../x"), 2, "--model"),
        (("generate", "clip.mp4", "--bits", "8"), 2, "--bits"),
        (("generate", "clip.mp4", "--from", "clip.mp4", "--region", "3,1"), 2, "--region must have the second"),
        (("generate", "clip.mp4", "--peak", "-3", "--loudness", "-23"), 2, "--peak"),
        (("generate", "clip.mp4", "--guidance", "inf"), 2, "--guidance"),
        (("generate", "clip.mp4", "--output", "file"), 3, "file"),
        (("generate", "clip.mp4", "--output", ""), 2, "empty"),
        (("generate", "clip.mp4", "--from", "", "--region", "1,3"), 2, "empty"),
        (("generate", "clip.mp4", "--reference", ""), 2, "empty"),
        (("generate", "clip.mp4", "--takes", "many"), 2, "--takes"),
        (("generate", "clip.mp4", "--nonsense"), 2, "--nonsense"),
        (("generate",), 2, "CLIP"),
        (("nonsense",), 2, "nonsense"),
        (("models", "path", "unheard-of"), 3, "unheard-of"),
    ]
    for arguments, code, word in wrong:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        said = capsys.readouterr()
        assert ended.value.code == code, said.err
        assert word in said.err and len(said.err.splitlines()) == 1 and said.out == "", arguments
    assert not home.file.exists()


def test_errors_of_a_job_are_one_sentence_with_their_exit_code(home: Any) -> None:
    home.start()
    for prompt, code in [("error BadMedia", 4), ("error DiskFull", 5), ("bug", 1)]:
        ran = home.vatt("generate", "clip.mp4", "--prompt", prompt, "--output", "out", "--json")
        plain(ran, code)


def test_wrong_settings_are_named_by_start_and_run(home: Any) -> None:
    file = home.root / "home" / "config" / "config.toml"
    file.parent.mkdir(parents=True)
    file.write_text("[server]\nprot = 1\n")
    assert "server.prot" in plain(home.vatt("daemon", "run"), 2)
    assert "server.prot" in plain(home.vatt("daemon", "start"), 7)


def test_a_port_in_use_is_told(home: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for how in ("start", "run"):
            ran = home.vatt("daemon", how, "--port", port)
            assert ran.returncode not in (0, 1)
            assert port in plain(ran, ran.returncode)


def test_a_stale_connection_file_does_not_stop_the_next_command(home: Any) -> None:
    home.start()
    home.kill()
    assert home.file.exists()
    assert home.vatt("daemon", "status").returncode == 7
    assert home.vatt("suggest", "clip.mp4").returncode == 0


def test_stopping_leaves_a_stranger_alone_who_got_the_process_id_of_a_dead_daemon(home: Any) -> None:
    home.start()
    home.kill()
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        home.file.write_text(json.dumps(json.loads(home.file.read_text()) | {"pid": stranger.pid}))
        assert home.vatt("daemon", "stop").returncode == 0
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_the_thin_client_alone_has_no_command_and_says_so() -> None:
    code = "import sys; sys.modules['typer'] = None; from vatt_daemon.cli import main; main([])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "typer" in plain(ran, 1)


def spawn(home: Any, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "vatt_daemon.cli", *arguments], env=home.environment, cwd=home.root,
                            start_new_session=True, **options)  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_cancels_the_job_in_the_daemon_too(home: Any, number: signal.Signals) -> None:
    home.start()
    command = spawn(home, "generate", "clip.mp4", "--prompt", "slow 1000", "--output", "out", stderr=subprocess.PIPE)
    home.until(home.runs)
    command.send_signal(number)
    _, said = command.communicate(timeout=90)
    assert command.returncode == 130
    assert b"Traceback" not in said
    with home.client() as client:
        home.until(lambda: [job.state for job in client.list()] == ["cancelled"])
    assert list(home.output.glob("*.wav")) == []


def test_a_daemon_that_is_killed_under_a_command_is_told(home: Any) -> None:
    home.start()
    command = spawn(home, "generate", "clip.mp4", "--prompt", "slow 1000", "--output", "out", "--json",
                    stderr=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    home.until(home.runs)
    home.kill()
    written, said = command.communicate(timeout=90)
    assert command.returncode == 7
    assert written == b"" and len(said.splitlines()) == 1
    assert not home.output.exists() or list(home.output.iterdir()) == []


def test_a_terminal_gets_a_progress_bar_and_a_pipe_plain_lines(home: Any) -> None:
    home.start()
    arguments = ("generate", "clip.mp4", "--prompt", "slow 10", "--output", "out")
    with home.held():
        lines = home.vatt(*arguments).stderr
    assert "\x1b" not in lines and lines.strip()
    mine, theirs = pty.openpty()
    with home.held():
        command = spawn(home, *arguments, stderr=theirs, stdout=subprocess.DEVNULL)
        os.close(theirs)
        seen = b""
        while True:
            try:
                seen += os.read(mine, 4096)
            except OSError:
                break
        assert command.wait(60) == 0
    os.close(mine)
    assert b"\x1b[" in seen


def test_models_are_listed_without_torch_and_doctor_reports_as_json(home: Any) -> None:
    (home.root / "torch.py").write_text("raise ImportError('no torch here')")
    without = {"PYTHONPATH": os.pathsep.join([str(home.root), home.environment["PYTHONPATH"]])}
    listed = home.vatt("models", "list", "--json", **without)
    assert "nano" in [model["name"] for model in json.loads(listed.stdout)]
    report = home.vatt("doctor", "--json", **without)
    found = json.loads(report.stdout)["checks"]
    checks = {check["name"]: check["state"] for check in found}
    assert report.returncode == 1
    cures = {check["name"]: check["cure"] for check in found}
    assert cures["model vatt-llama-t"].startswith("vatt models pull vatt-llama-t")
    assert checks["torch works"] == "problem" and checks["pyzmq"] == "ok"


def test_doctor_sees_a_torchvision_that_does_not_fit(home: Any) -> None:
    (home.root / "other" / "torchvision").mkdir(parents=True)
    (home.root / "other" / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    report = home.vatt(
        "doctor", "--json", PYTHONPATH=os.pathsep.join([str(home.root / "other"), home.environment["PYTHONPATH"]])
    )
    checks = {check["name"]: check for check in json.loads(report.stdout)["checks"]}
    assert report.returncode == 1 and checks["torch works"]["state"] == "ok"
    assert checks["model libraries"]["state"] == "problem" and "nms" in checks["model libraries"]["seen"]


def test_training_and_measuring_refuse_wrong_words_at_once(home: Any) -> None:
    (home.root / "letter.md").write_text("dear")
    for arguments in (
        ("train", "nano", "--device", "cdua"),
        ("train", "nano", "--stages", "vision,nonsense"),
        ("eval", "world", "--output", "letter.md"),
        ("eval", "world", "--device", "cdua"),
    ):
        plain(home.vatt(*arguments), 2)
    assert not (home.root / "runs").exists() and (home.root / "letter.md").read_text() == "dear"


def test_a_clip_of_the_world_is_written(home: Any) -> None:
    ran = home.vatt("world", "write", "--kind", "bell", "--seed", "2000003", "--seconds", "1", "--fps", "30000/1001",
                    "--size", "64", "--with-sound", "--output", "world.mp4")  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    told, found = json.loads((home.root / "world.json").read_text()), probe(home.root / "world.mp4")
    assert told["frames"] == 30 and "bell" in told["caption"]
    assert found.frame_rate == Fraction(30000, 1001) and found.has_audio
    assert plain(home.vatt("world", "write", "--output", "world.txt"), 2)
