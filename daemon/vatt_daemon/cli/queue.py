"""`vatt jobs`: the daemon's jobs; list, show, cancel, retry, follow."""

from __future__ import annotations

import json
import sys
import time
from pathlib import PurePath
from typing import Annotated, Any

import typer
from vatt_client import Client, messages
from vatt_client.replies import CANCELLED, DONE, ENDED, FAILED, QUEUED, RUNNING, Job

from vatt_core.errors import BadRequest
from vatt_daemon.cli.jobs import AsJson, Connection, use_connection
from vatt_daemon.cli.output import print_json, print_table, progress_display

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, help="The daemon's jobs: list, show, cancel, retry, follow."
)

STATES = (QUEUED, RUNNING, DONE, FAILED, CANCELLED)
JobId = Annotated[str, typer.Argument(metavar="JOB", help="Id of the job, see 'vatt jobs list'.")]
JobIds = Annotated[list[str], typer.Argument(metavar="JOB…", help="Ids of jobs, see 'vatt jobs list'.")]


def _client(connection_file: Any) -> Client:
    """Of the daemon that runs; none is started for a look at its jobs."""
    use_connection(connection_file)
    return Client(name="vatt")


@app.command("list")
def list_jobs(
    state: Annotated[
        list[str] | None, typer.Option("--state", help=f"Only these: {', '.join(STATES)}. May be given several times.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many at most.")] = 20,
    batch: Annotated[
        str | None, typer.Option("--batch", metavar="JOB", help="The items of this batch instead.")
    ] = None,
    connection_file: Connection = None,
    as_json: AsJson = False,
) -> None:
    """The newest jobs first."""
    for name in state or ():
        if name not in STATES:
            raise BadRequest(f"There is no state '{name}'. There are: {', '.join(STATES)}.", field="state")
    with _client(connection_file) as client:
        found = client.list(states=state or (), limit=limit, batch=batch, results=True)
    if as_json:
        print_json([job.to_dict() for job in found])
        return
    print_table(
        ("job", "kind", "state", "submitted", "clip"),
        [(job.id, job.kind, _state(job), _moment(job.created), _subject(job)) for job in found],
    )


@app.command()
def show(job: JobId, connection_file: Connection = None, as_json: AsJson = False) -> None:
    """One job: what was asked, what has become of it, and when."""
    with _client(connection_file) as client:
        found = client.get(job, history=True)
    if as_json:
        print_json(found.to_dict())
        return
    print(f"job       {found.id}, {found.kind}, {found.priority}, of '{found.client}'")
    print(f"state     {_state(found)}, attempt {found.attempt}")
    if found.progress and not found.ended:
        print(f"progress  {found.progress['stage']}: {found.progress['done']} of {found.progress['total']}")
    for name, value in (found.request or {}).items():
        if name != "type":
            print(f"asked     {name} = {json.dumps(value, ensure_ascii=False)}")
    for step in found.history or ():
        print(f"history   {_moment(step['at'])}  {step['state']}{': ' if step['note'] else ''}{step['note']}")
    for caption in (found.result or {}).get("captions", ()):
        print(f"caption   {caption['score']:.2f}  {caption['text']}")
    for take in (found.result or {}).get("takes", ()):
        print(f"take      {take['wav']}")
    if found.error:
        print(f"error     {found.error['code']}: {found.error['message']}")


@app.command()
def cancel(jobs: JobIds, connection_file: Connection = None) -> None:
    """Cancel jobs that wait or run. One that has ended stays as it is."""
    with _client(connection_file) as client:
        for job in jobs:
            state = client.cancel(job)
            print(f"{job}  {'will stop at its next step' if state == RUNNING else state}")


@app.command()
def retry(jobs: JobIds, connection_file: Connection = None) -> None:
    """Submit jobs again that have failed or were cancelled, with the same seed; prints the ids of the new ones.

    Of a batch, what is made and still whole is kept.
    """
    with _client(connection_file) as client:
        messages_again = [_again(client, client.get(job)) for job in jobs]
        for job, message in zip(jobs, messages_again, strict=True):
            print(f"{client.submit(message)}  again for {job}")


def _again(client: Client, job: Job) -> messages.Submission | messages.Batch:
    """The message that asks for the same as a job did. Raises BadRequest when there is nothing to retry."""
    if job.state not in ENDED:
        raise BadRequest(f"Job {job.id} is {job.state}: wait for its end, or cancel it first.", job=job.id)
    body = dict(job.request or {})
    if job.kind == messages.Batch.TYPE:
        items = sorted(client.list(batch=job.id, results=True, limit=messages.LARGEST_BATCH), key=_position)
        return messages.Batch(
            items=tuple(_item(item, body.get("defaults", {})) for item in items),
            priority=job.priority,
            report=body.get("report"),
        )
    if job.state == DONE:
        raise BadRequest(
            f"Job {job.id} is done: there is nothing to retry. 'vatt remake' makes a take again, from its side-car.",
            job=job.id,
        )
    kind = messages.REQUESTS[body.pop("type")]
    body.pop("idempotency_key", None)
    message = kind.from_wire(body | {"seed": job.seed})
    assert isinstance(message, messages.Submission)
    return message


def _position(item: Job) -> int:
    return item.position or 0


def _item(item: Job, defaults: dict[str, Any]) -> dict[str, Any]:
    """An item as it was asked for: with what the batch gave it, or as it was sent where it could not be read."""
    body = item.request or {}
    return (
        {name: body[name] for name in body if name not in ("type", "priority")} if "type" in body else defaults | body
    )


@app.command()
def follow(
    jobs: Annotated[
        list[str] | None, typer.Argument(metavar="[JOB…]", help="Ids of jobs; left out, all of them, until Ctrl-C.")
    ] = None,
    connection_file: Connection = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print each change as one line of JSON.")] = False,
) -> None:
    """Show jobs as they go on, until they have ended. Ctrl-C ends the looking, not the jobs.

    The exit code is 1 when one of the named jobs is not done at its end.
    """
    done = True
    with _client(connection_file) as client, progress_display(quiet=as_json or not jobs or len(jobs) > 1) as progress:
        for job in client.watch(jobs, on_progress=progress) if jobs else client.watch_all():
            if as_json:
                print(json.dumps(job.to_dict(), ensure_ascii=False), flush=True)
            else:
                problem = f": {job.error['message']}" if job.error else ""
                print(f"{_moment(time.time())}  {job.id}  {_subject(job)}  {_state(job)}{problem}", flush=True)
            done &= not job.ended or job.state == DONE
    if not done:
        print("Not every job was done.", file=sys.stderr)
        raise typer.Exit(1)


def _moment(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def _state(job: Job) -> str:
    return job.state if job.error is None else f"{job.state} ({job.error['code']})"


def _subject(job: Job) -> str:
    """What the job is about, in a few words."""
    asked = job.request or {}
    if job.kind == messages.Batch.TYPE:
        return f"{asked.get('items', '')} clips".strip()
    return PurePath(str(asked.get("path", ""))).name
