"""What can be seen of the daemon and set about it: settings, jobs, logs, figures, and the bundle for whoever helps."""

from __future__ import annotations

import dataclasses
import http.client
import json
import re
import socket
import tomllib
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from vatt_client import errors
from vatt_daemon.cli import main

SECRET = "nobody's business"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def test_settings_are_shown_as_they_count_and_checked(home: Any) -> None:
    file = home.root / "home" / "config" / "config.toml"
    assert home.vatt("config", "path").stdout.strip() == str(file)
    made = home.vatt("config", "edit", EDITOR="true")
    assert made.returncode == 0 and tomllib.loads(file.read_text()).keys() >= {"server", "worker", "log"}
    no_editor = home.vatt("config", "edit", EDITOR="no-such-editor")
    assert no_editor.returncode == 2 and "no-such-editor" in no_editor.stderr and str(file) in no_editor.stderr
    file.write_text("[worker]\nkeep_alive = 1800\n")
    shown = tomllib.loads(home.vatt("config", "show", VATT_JOBS_QUEUE="77").stdout)
    assert shown["worker"]["keep_alive"] == 1800.0 and shown["jobs"]["queue"] == 77
    told = json.loads(home.vatt("config", "show", "--json", VATT_JOBS_QUEUE="77").stdout)
    assert told["worker.keep_alive"]["from"] == str(file) and told["jobs.attempts"]["from"] == "default"
    assert "VATT_JOBS_QUEUE" in told["jobs.queue"]["from"]
    whole = home.root / "whole.toml"
    whole.write_text(home.vatt("config", "show").stdout)
    assert home.vatt("config", "validate", str(whole)).returncode == 0
    file.write_text("[worker]\nkeep_alif = 1800\n")
    for refused in (
        home.vatt("config", "validate"),
        home.vatt("config", "show"),
        home.vatt("config", "edit", EDITOR="true"),
    ):
        assert refused.returncode == 2 and "worker.keep_alif" in refused.stderr and "Traceback" not in refused.stderr


def test_doctor_tells_once_what_is_wrong_and_how_to_cure_it(home: Any) -> None:
    def problems() -> dict[str, str]:
        ran = home.vatt("doctor", "--json")
        found = [check for check in json.loads(ran.stdout)["checks"] if check["state"] == "problem"]
        assert ran.returncode == bool(found) and all(check["cure"] for check in found)
        assert len({check["name"] for check in found}) == len(found)
        return {check["name"]: check["seen"] for check in found}

    config = home.root / "home" / "config" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text("[worker]\nkeep_alif = 1800\n")
    assert list(problems()) == ["settings"]
    config.write_text(f'[paths]\ninput_roots = ["{home.root}"]\noutput_roots = ["{home.root / "gone"}"]\n')
    key = home.root / "home" / "data" / "keys" / "server.secret"
    key.parent.mkdir(parents=True)
    key.parent.chmod(0o755)
    key.write_text("short")
    key.chmod(0o600)
    assert list(problems()) == ["paths.output_roots", "keys folder", "key server.secret"]
    key.parent.chmod(0o700)
    found = problems()
    assert list(found) == ["paths.output_roots", "key server.secret"]
    assert str(home.root / "gone") in found["paths.output_roots"]


def test_jobs_are_listed_shown_cancelled_retried_and_followed(
    home: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VATT_HOME", home.environment["VATT_HOME"])

    def vatt(*arguments: str) -> Any:
        """The command within this process: many calls, each quick."""
        with pytest.raises(SystemExit) as end:
            main(list(arguments))
        return SimpleNamespace(returncode=int(end.value.code or 0), stdout=capsys.readouterr().out)

    assert vatt("jobs", "list").returncode == vatt("status").returncode == 7
    home.start()
    with home.client() as client:
        failed = client.run(home.generate("error BadMedia", seed=5))
        running = client.submit(home.generate("slow 100000"))
        waiting = client.submit(home.generate("later", priority="batch"))
        home.until(lambda: client.get(running).state == "running")
        listed = json.loads(vatt("jobs", "list", "--json").stdout)
        assert [job["id"] for job in listed] == [waiting, running, failed.id]
        assert [line.split("\t")[0] for line in vatt("jobs", "list", "--state", "failed").stdout.splitlines()] == [
            failed.id
        ]
        assert vatt("jobs", "list", "--state", "lost").returncode == 2
        shown = vatt("jobs", "show", failed.id)
        assert shown.returncode == 0 and "bad_media" in shown.stdout and "error BadMedia" in shown.stdout
        assert vatt("jobs", "show", "f" * 32).returncode != 0
        assert running in json.loads(vatt("status", "--json").stdout)["running"]
        assert vatt("jobs", "retry", waiting).returncode == 2
        assert vatt("jobs", "cancel", waiting, running).returncode == 0
        assert [client.wait(job).state for job in (running, waiting)] == ["cancelled"] * 2
        tried = vatt("jobs", "retry", failed.id, waiting)
        again = [client.wait(line.split()[0]) for line in tried.stdout.splitlines()]
        assert [job.state for job in again] == ["failed", "done"]
        assert again[0].id != failed.id and again[0].seed == 5
        asked, before = ({**job.request, "idempotency_key": None} for job in (again[0], failed))
        assert asked == before
        followed = vatt("jobs", "follow", "--json", again[0].id, again[1].id)
        assert followed.returncode == 1
        assert {json.loads(line)["state"] for line in followed.stdout.splitlines()} == {"failed", "done"}
        assert vatt("jobs", "follow", again[1].id).returncode == 0
        assert vatt("jobs", "retry", again[1].id).returncode == 2


def test_a_batch_is_retried_where_it_failed(home: Any) -> None:
    home.environment["VATT_WORKER_PIPELINE"] = "batch_pipeline:Pipeline"
    home.start()
    items = [
        {"path": str(home.clip), "prompt": prompt, "seed": n} for n, prompt in enumerate(("plain", "error BadMedia"))
    ]
    with home.client() as client:
        batch = client.wait(client.submit_batch([*items, {"path": str(home.clip), "takes": 0}], output=home.output))
        again = client.wait(home.vatt("jobs", "retry", batch.id).stdout.split()[0])
        report = client.report(again.id)
        assert [(item.state, item.kept) for item in report.items] == [
            ("done", True),
            ("failed", False),
            ("failed", False),
        ]
    assert home.runs() == ["plain", "error BadMedia", "error BadMedia"]


@pytest.mark.parametrize("private", [False, True])
def test_log_lines_are_json_with_job_ids_and_keep_what_is_private_out(home: Any, private: bool) -> None:
    home.clip = home.root / f"{SECRET}.mp4"
    home.clip.write_bytes(b"x")
    home.start("log.format=json", f"log.private={str(private).lower()}")
    with home.client() as client:
        failed = client.run(home.generate(f"bug {SECRET}"))
        with pytest.raises(errors.ClientError):
            client.run(dataclasses.replace(home.generate("plain"), path=str(home.root / SECRET)))
        client.shutdown()
    home.processes[-1].wait(60)
    logs = home.root / "home" / "log"
    lines = [json.loads(line) for line in (logs / "daemon.log").read_text().splitlines()]
    assert {"time", "level", "logger", "message"} <= set(lines[0])
    own = [line for line in lines if line.get("job") == failed.id]
    assert any("failed" in line["message"] for line in own) and any("detail" in line for line in own) != private
    told = (logs / "daemon.log").read_text() + (logs / "worker.log").read_text()
    assert failed.id in (logs / "worker.log").read_text() and "ZeroDivisionError" in told
    if private:
        assert SECRET not in told and "ZeroDivisionError: one by nothing" not in told


def test_figures_for_prometheus_are_there_when_asked_for_and_for_this_machine_only(home: Any) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        refused = home.spawn(f"metrics.port={port}")
        assert refused.wait(120) != 0 and str(port).encode() in refused.stderr.read()
    home.start(f"metrics.port={port}")

    def ask(path: str, host: str) -> tuple[int, str]:
        link = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        link.request("GET", path, headers={"Host": host})
        answer = link.getresponse()
        return answer.status, answer.read().decode()

    with home.client() as client:
        client.run(home.generate("plain"))
        client.run(home.generate("error BadMedia"))
        state, text = ask("/metrics", f"127.0.0.1:{port}")
        assert state == 200
        figures = {
            name: float(value) for name, value in re.findall(r"^([a-z_]+(?:\{.*\})?) (\S+)$", text, re.MULTILINE)
        }
        assert figures['vatt_job_ends_total{kind="generate",state="done"}'] == 1
        assert figures['vatt_job_ends_total{kind="generate",state="failed"}'] == 1
        assert figures['vatt_worker_up{device="auto"}'] == 1 and figures["vatt_jobs_waiting"] == 0
        named = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
        assert {re.split(r"[{ ]", name)[0] for name in figures} <= named
        assert ask("/metrics", f"evil.example:{port}")[0] == 403
        assert ask("/", "localhost")[0] == 404
        with (
            socket.create_connection(("127.0.0.1", port)) as silent,
            socket.create_connection(("127.0.0.1", port)) as raw,
        ):
            raw.sendall(b"\xff" * 20_000)
            assert client.ping() and silent.fileno()
        assert ask("/metrics", "localhost")[0] == 200


def test_the_bundle_helps_and_holds_no_path_prompt_or_key(home: Any) -> None:
    home.clip = home.root / "secret clip.mp4"
    home.clip.write_bytes(b"x")
    home.start()
    with home.client() as client:
        client.run(home.generate("error BadMedia"))
        client.run(home.generate(f"bug {SECRET}"))
        with pytest.raises(errors.ClientError):
            client.generate(home.root / "secret folder" / "x.mp4", output=home.output, prompt="x")
    file = home.root / "bundle.zip"
    ran = home.vatt("doctor", "--bundle", str(file))
    assert file.is_file(), ran.stderr
    with zipfile.ZipFile(file) as bundle:
        texts = {name: bundle.read(name).decode() for name in bundle.namelist()}
    assert {"doctor.json", "settings.json", "status.json", "daemon.log", "worker.log"} <= set(texts)
    assert json.loads(texts["doctor.json"])["checks"] and json.loads(texts["status.json"])["counts"]["failed"] == 2
    keys = [path.read_text() for path in (home.root / "home" / "data" / "keys").glob("*.secret")]
    whole = "\n".join(texts.values())
    for hidden in ("secret", SECRET, str(home.root), *keys):
        assert hidden not in whole.replace("client.secret", "").replace("server.secret", ""), hidden
    assert home.vatt("doctor", "--bundle", str(file)).returncode != 0  # nothing is overwritten


def test_a_page_of_the_settings_names_every_command() -> None:
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
    for command in ("vatt status", "vatt jobs", "vatt config", "vatt doctor --bundle"):
        assert command in page
