"""`vatt models`: list, pull, import, verify, remove, path, dry-run. Works without a daemon; torch only where weights are."""

from __future__ import annotations

import math
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from vatt_core.errors import BadModel, BadRequest, NotFound
from vatt_core.media.atomic import writing_error
from vatt_core.weights import ModelEntry, find_entry, find_model, list_models, models_folder
from vatt_core.weights.registry import downloads_folder, known_names, licences_of
from vatt_core.weights.space import in_units
from vatt_daemon.cli.output import print_json, print_table

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="Fetch, import and check models.")

Name = Annotated[str, typer.Argument(help="Name of a model, see 'vatt models list'.")]
Trust = Annotated[
    bool, typer.Option("--trust", help="Read pickled files that hold more than tensors: they may run a program.")
]
Replace = Annotated[bool, typer.Option("--replace", help="Over the model that is installed.")]
Store = Annotated[
    str,
    typer.Option("--store", help="Precision of the language model in the folder: source, float32, float16, bfloat16."),
]
Parts = Annotated[
    list[str] | None,
    typer.Option(
        "--part",
        help="ROLE=FILE, or ROLE=ARCHIVE:MEMBER, where a file is not found by its name; roles: base, delta, "
        "checkpoint, codebooks, word_embeds, codec, vision.",
    ),
]
Normalise = Annotated[bool, typer.Option("--normalise-features", help="The model wants features of length 1.")]
LoraAlpha = Annotated[int, typer.Option("--lora-alpha", min=1, help="Alpha of LoRA in training.")]


@app.command("list")
def show(as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False) -> None:
    """The models that can be named, and which of them are installed."""
    models = list_models()
    if as_json:
        print_json(
            [
                {
                    "name": model.name,
                    "installed": model.installed,
                    "title": model.title,
                    "licence": model.licence,
                    "licences": [vars(licence) for licence in licences_of(model)],
                    "parts": list(model.parts),
                    "embedded": model.embedded,
                    "folder": str(model.folder),
                }
                for model in models
            ]
        )
        return
    print_table(
        ("name", "installed", "what it is", "licences"),
        [(model.name, "yes" if model.installed else "no", model.title, model.licence) for model in models],
    )


@app.command()
def path(name: Name = "nano") -> None:
    """The folder of an installed model."""
    print(find_model(name))


@app.command()
def pull(
    name: Name,
    accepted: Annotated[
        list[str] | None, typer.Option("--accept", help="A licence that you accept; may be repeated.")
    ] = None,
    trust: Trust = False,
    replace: Replace = False,
    store: Store = "source",
    parts: Parts = None,
    normalise: Normalise = False,
    lora_alpha: LoraAlpha = 32,
) -> None:
    """Fetch an official model and import it. The same command goes on where a broken one stopped."""
    from vatt_core.weights.pull import accept, pull_parts, throw_away_damaged, unaccepted

    entry = find_entry(name)
    if entry.embedded:
        raise BadRequest(f"The model {name} ships with VATT: there is nothing to fetch.")
    if entry.installed and not replace:
        raise BadRequest(
            f"The model {name} is installed at {entry.folder}. Add --replace to import it anew; archives that are still there "
            "are not fetched again."
        )
    options = _options(
        trust=trust, replace=replace, store=store, parts=parts, normalise=normalise, lora_alpha=lora_alpha
    )
    if options["parts"]:
        from vatt_core.weights.importing.found import look_at

        look_at([], options["parts"])  # what is wrong with them is told before anything is fetched
    accept([*(accepted or ()), *_asked(unaccepted(entry, accepted or ()))])
    with _bars() as (line, progress):
        files = pull_parts(entry, report=line, show=progress)
    try:
        _import(entry, entry.name, files, options)
    except BadModel as error:
        blamed = next((file for file in files if str(file) == error.details.get("file")), None)
        if blamed is None or not throw_away_damaged(blamed):
            raise
        message = f"{error.message.rstrip('.')}. {blamed.name} was thrown away; the same command fetches it again."
        raise BadModel(message, **error.details) from error
    print(
        f"The archives stay in {downloads_folder()} for other models; 'vatt models remove --downloads' frees the room.",
        file=sys.stderr,
    )


def _asked(licences: list[Any]) -> list[str]:
    """The licences that the user accepts now, asked one by one on a terminal."""
    if not licences or not sys.stdin.isatty():
        return []
    agreed = []
    for licence in licences:
        print(f"{licence.title}\n  {licence.url}", file=sys.stderr)
        if typer.confirm("Do you accept these terms?", err=True):
            agreed.append(licence.name)
    return agreed


@app.command("import")
def import_(
    name: Name,
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Archives, folders and files of the official release.")
    ] = None,
    trust: Trust = False,
    replace: Replace = False,
    store: Store = "source",
    parts: Parts = None,
    like: Annotated[
        str | None, typer.Option("--like", help="For a name of your own: the official model that it is like.")
    ] = None,
    normalise: Normalise = False,
    lora_alpha: LoraAlpha = 32,
) -> None:
    """Make a model out of files of the official release that you have."""
    entry = find_entry(like or name)
    if not entry.family:
        raise BadRequest(f"{entry.name} is none of the official models; name one of them, or add --like vatt-gemma-t.")
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise BadRequest(f"{name!r} cannot be the name of a model; use letters, digits and '-'.", field="name")
    if like not in (None, name) and name in known_names():
        raise BadRequest(f"{name} is the name of another model than {like}; choose a name of your own.", field="name")
    options = _options(
        trust=trust, replace=replace, store=store, parts=parts, normalise=normalise, lora_alpha=lora_alpha
    )
    _import(entry, name, paths or [], options)


def _options(
    *, trust: bool, replace: bool, store: str, parts: list[str] | None, normalise: bool, lora_alpha: int
) -> dict[str, Any]:
    """What `ImportOptions` takes, checked before torch is loaded or anything fetched."""
    if store not in ("source", "float32", "float16", "bfloat16"):
        raise BadRequest(f"--store {store} is not known; choose source, float32, float16 or bfloat16.", field="store")
    named = {}
    for given in parts or ():
        role, equals, file = given.partition("=")
        if not equals or not file:
            raise BadRequest(f"--part {given} does not say what it is; write ROLE=FILE.", field="part")
        named[role] = Path(file)
    return {
        "trust": trust,
        "replace": replace,
        "store": store,
        "normalise_features": normalise,
        "lora_alpha": lora_alpha,
        "parts": named,
    }


def _import(entry: ModelEntry, name: str, paths: list[Path], options: dict[str, Any]) -> None:
    from vatt_core.weights.importing import ImportOptions, import_model

    assert entry.family is not None
    done = import_model(
        name, paths, folder=models_folder() / name, family=entry.family, text_steered=entry.text_steered,
        options=ImportOptions(**options),
        report=lambda line: print(line, file=sys.stderr, flush=True),
    )  # fmt: skip
    for role, source in done.sources.items():
        print(f"{role}: {source}", file=sys.stderr)
    for file, keys in done.ignored.items():
        shown = ", ".join(keys[:8]) + (f" and {len(keys) - 8} more" if len(keys) > 8 else "")
        print(f"not needed in {file}: {shown}", file=sys.stderr)
    for note in done.notes:
        print(f"note: {note}", file=sys.stderr)
    print(done.folder)


@app.command()
def verify(name: Name = "nano") -> None:
    """Read every byte of an installed model: hashes, names, shapes, numbers."""
    folder = find_model(name)
    from vatt_core.weights.verify import verify_model

    compared = verify_model(folder, report=lambda line: print(line, file=sys.stderr, flush=True))
    print(f"{name} is complete" + (" and what was imported" if compared else ""))


@app.command()
def remove(
    name: Annotated[str | None, typer.Argument(help="Name of an installed model.")] = None,
    downloads: Annotated[bool, typer.Option("--downloads", help="Also, or only, the fetched archives.")] = False,
) -> None:
    """Remove an installed model, or what was fetched."""
    if name is None and not downloads:
        raise BadRequest("Name a model to remove, or add --downloads.")
    folders = []
    if name is not None:
        entry = find_entry(name)
        if entry.embedded:
            raise BadRequest(f"The model {name} ships with VATT and stays.")
        if not entry.folder.is_dir():
            raise NotFound(f"The model {name} is not installed. See 'vatt models list' for those that are.", name=name)
        folders.append(entry.folder)
    if downloads and downloads_folder().is_dir():
        folders.append(downloads_folder())
    for folder in folders:
        try:
            freed = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            shutil.rmtree(folder)
        except OSError as error:
            raise writing_error(folder, error) from error
        print(f"removed {folder} ({in_units(freed)})")


@app.command("dry-run")
def dry_run(
    name: Name,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[str, typer.Option("--precision", help="auto, float32, bfloat16 or float16.")] = "auto",
    llm_bits: Annotated[int, typer.Option("--llm-bits", help="8 or 4: the language model quantised; 0: not.")] = 0,
    memory: Annotated[str, typer.Option("--memory", help="auto, keep or swap.")] = "auto",
    takes: Annotated[int, typer.Option("--takes", min=1, help="Takes that are made together.")] = 1,
    free: Annotated[
        float | None, typer.Option("--free", min=0, help="GiB that are free on the device; left out: as found.")
    ] = None,
    run: Annotated[
        bool, typer.Option("--run", help="Let the stages really compute, part after part, with random numbers.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """What a model takes, without its weights: parameters, bytes, and the plan for this device."""
    if free is not None and math.isinf(free):
        raise BadRequest("--free is infinite; give a number of GiB.", field="free")
    entry = find_entry(name)
    if not entry.installed and not entry.family:
        raise NotFound(
            f"The sizes of {name} are not known before it is installed. Install it, or name an official model, see 'vatt "
            "models list'.",
            name=name,
        )
    from vatt_core.model.dry_run import rehearse
    from vatt_core.model.plan import LoadOptions

    options = LoadOptions(precision=cast(Any, precision), llm_bits=llm_bits, memory=cast(Any, memory))
    done = rehearse(
        name,
        entry.folder if entry.installed else None,
        entry.family,
        options,
        device=device,
        takes=takes,
        available=None if free is None else int(free * (1 << 30)),
        run=run,
    )
    if as_json:
        print_json(done.to_dict())
        return
    for line in done.lines():
        print(line)


@contextmanager
def _bars() -> Iterator[tuple[Callable[[str], None], Callable[[str, int, int | None], None]]]:
    """A function for lines and one for progress, on standard error: bars on a terminal, every tenth elsewhere."""
    if not sys.stderr.isatty():
        last: dict[str, int] = {}

        def count(name: str, done: int, total: int | None) -> None:
            tenth = 10 * done // total if total else done // (1 << 28)
            if last.get(name) != tenth:
                last[name] = tenth
                of = f" of {in_units(total)}" if total else ""
                print(f"{name}: {in_units(done)}{of}", file=sys.stderr, flush=True)

        yield lambda line: print(line, file=sys.stderr, flush=True), count
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def update(name: str, done: int, total: int | None) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total)
            bars.update(tasks[name], completed=done, total=total)

        yield bars.console.print, update
