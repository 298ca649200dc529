"""The messages that make jobs: captions, soundtracks, and batches of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from vatt_client import fields
from vatt_client.errors import BadRequest
from vatt_client.protocol import JOBS, LARGEST_BATCH, LARGEST_SEED, Message


@dataclass(frozen=True, kw_only=True)
class Submission(Message):
    """What every job has. A submission counts when its answer has come: it is on the disk by then."""

    SOCKETS = (JOBS,)
    ANSWER = "job (its id), state, seed, duplicate"

    path: str = fields.text(
        "absolute path of the clip, as the daemon's machine sees it, or `upload:` and the id of an upload", shortest=1
    )
    start: Fraction | None = fields.seconds("begin of the range in the source; none: the clip's begin", default=None)  # noqa: RUF009
    end: Fraction | None = fields.seconds("end of the range in the source; none: the clip's end", default=None)  # noqa: RUF009
    time_map: tuple[tuple[Fraction, Fraction], ...] | None = fields.time_map(
        "piecewise linear map as [timeline, source] pairs in seconds, instead of start and end", default=None
    )
    model: str = fields.identifier("name of an installed model", default="nano")
    seed: int | None = fields.integer(
        "same request and seed: same result; none: the daemon draws one and tells it",
        minimum=0,
        maximum=LARGEST_SEED,
        default=None,
    )
    priority: str = fields.choice(
        "interactive work goes before batch work", "interactive", "batch", default="interactive"
    )
    deadline: float | None = fields.number(
        "time left until the answer is of no use any more", minimum=0.001, maximum=31_536_000, default=None, unit="s"
    )
    keep_alive: float | None = fields.number(
        "how long the model stays in memory after this job, -1 for ever; none: as the daemon is set",
        minimum=-1,
        maximum=31_536_000,
        default=None,
        unit="s",
    )
    idempotency_key: str | None = fields.identifier(
        "chosen by the client, best a UUID: a second submission with this key is the same job", default=None
    )

    def check_together(self) -> None:
        if self.time_map is not None and (self.start is not None or self.end is not None):
            raise BadRequest("Give either 'time_map' or 'start' and 'end', not both.", field="time_map")
        if self.start is not None and self.end is not None and self.end <= self.start:
            raise BadRequest(
                f"The range from {float(self.start):g} s to {float(self.end):g} s is empty: "
                "'end' must come after 'start'.",
                field="end",
            )


@dataclass(frozen=True, kw_only=True)
class Suggest(Submission):
    """Ask for captions of a clip."""

    TYPE = "suggest"

    count: int = fields.integer("how many different captions", minimum=1, maximum=16, default=3)
    temperature: float | None = fields.number(
        "boldness of the wording; none: the model's own", minimum=0.01, maximum=5.0, default=None
    )


@dataclass(frozen=True, kw_only=True)
class Generate(Submission):
    """Ask for soundtracks of a clip."""

    TYPE = "generate"

    output: str = fields.text(
        "absolute path of the folder that receives the files, or `download:`, see Transfers", shortest=1
    )
    prompt: str | None = fields.text(
        "what shall be heard; none: the model's best caption", default=None, shortest=1, longest=1000
    )
    negative_prompt: str | None = fields.text("what shall not be heard", default=None, shortest=1, longest=1000)
    takes: int = fields.integer("how many different takes", minimum=1, maximum=16, default=1)
    sample_rate: int = fields.integer(
        "sample rate of the WAV", minimum=8000, maximum=192_000, default=48_000, unit="Hz"
    )
    bits: int = fields.choice("bits of a sample; 32 is floating point", 16, 24, 32, default=24)
    guidance_scale: float | None = fields.number(
        "strength of prompt and picture; none: the model's own", minimum=0.0, maximum=50.0, default=None
    )
    steps: int | None = fields.integer("decoding steps; none: the model's own", minimum=1, maximum=200, default=None)
    temperature: float | None = fields.number(
        "boldness of the sound; none: the model's own", minimum=0.01, maximum=20.0, default=None
    )
    mask_temperature: float | None = fields.number(
        "randomness of the order in which codes are decided; none: the model's own",
        minimum=0.0, maximum=100.0, default=None,
    )  # fmt: skip
    top_k: int | None = fields.integer(
        "how many of the likeliest codes are drawn from; none: the model's own", minimum=1, maximum=65_536, default=None
    )
    loudness: float | None = fields.number(
        "target loudness, true peaks limited; nil: left as made",
        minimum=-70.0,
        maximum=0.0,
        default=-23.0,
        unit="LUFS",
        optional=True,
    )
    preview: bool = fields.flag("also write a PNG and a copy of the video with the sound", default=False)
    prompts: tuple[str, ...] = fields.texts("one prompt per shot, instead of 'prompt'", default=())
    negative_prompts: tuple[str, ...] = fields.texts(
        "one per shot, instead of 'negative_prompt'; an empty one says nothing", default=()
    )
    cuts: tuple[Fraction, ...] | None = fields.times(
        "where shots change, seconds in the range; none: found in the picture; empty: nowhere", default=None
    )
    reference: str | None = fields.text(
        "absolute path of a sound that the takes shall continue, or an upload", default=None, shortest=1
    )
    preset: str | None = fields.choice(
        "draft: a third of the steps; what is given beside it wins", "draft", "final", default=None
    )
    guidance_schedule: str | None = fields.choice(
        "how the guidance goes over the steps; none: the model's own", "constant", "rising", "falling", default=None
    )
    nudge: bool = fields.flag("shift each take by up to 0.5 s to where it fits the motion best", default=False)
    rank: bool = fields.flag("best take first; otherwise in the order of their seeds", default=True)
    base: str | None = fields.text(
        "absolute path of an earlier take's side-car, or of a sound as long as the clip, to build on; or an upload",
        default=None,
        shortest=1,
    )
    region: tuple[Fraction, ...] | None = fields.times(
        "begin and end, seconds in the range: only that part of 'base' is made anew",
        default=None,
        shortest=2,
        longest=2,
    )
    vary: float | None = fields.number(
        "share of the codes of 'base' that is made anew", minimum=0.0, maximum=1.0, default=None
    )
    vary_by: str = fields.choice(
        "which codes: evenly over the time, or the finest codebooks first", "time", "coarse", default="time"
    )
    loop: bool = fields.flag("the end goes on into the beginning", default=False)
    container: str = fields.choice("kind of sound file; flac has no 32 bits", "wav", "flac", default="wav")
    channels: int = fields.choice("2: the same sound in two channels", 1, 2, default=1)
    peak: float | None = fields.number(
        "true peak, instead of the default 'loudness'; no other one beside it",
        minimum=-60.0,
        maximum=0.0,
        default=None,
        unit="dBTP",
    )
    true_peak: float = fields.number(
        "ceiling of true peaks, with a loudness", minimum=-20.0, maximum=0.0, default=-1.0, unit="dBTP"
    )
    fade: float = fields.number("fade at both ends", minimum=0.0, maximum=1000.0, default=5.0, unit="ms")
    mux: bool = fields.flag("also write a copy of the video with the sound, its pictures untouched", default=False)

    def check_together(self) -> None:
        super().check_together()
        # The default gives way: a sender need not take back what it has not said.
        if self.peak is not None and self.loudness not in (None, fields.rules(Generate)["loudness"][1]):
            raise BadRequest("'peak' sets the level in the place of 'loudness': give one of them.", field="peak")


ITEM_ALIASES = {"in": "start", "out": "end"}
_NOT_OF_AN_ITEM = ("priority", "deadline", "idempotency_key")


@dataclass(frozen=True, kw_only=True)
class Batch(Message):
    """Ask for soundtracks of many clips in one request. The batch is a job, and each of its items is one.

    An item is a map with the fields of `generate` except `priority`, `deadline` and `idempotency_key`; `in` and `out` may
    stand for `start` and `end`. An item that cannot be used fails alone. `items` too long for the frame go on in the raw
    buffers, each a msgpack list of items. Give either `items` or `manifest`.
    """

    TYPE = "batch"
    SOCKETS = (JOBS,)
    ANSWER = "job (the batch's id), state, items (how many), duplicate"
    BUFFERS = "items"

    items: tuple[Mapping[str, Any], ...] = fields.maps("the clips", default=(), longest=LARGEST_BATCH)
    manifest: str | None = fields.text(
        "absolute path of a JSON Lines or CSV file with the items, as the daemon's machine sees it",
        default=None,
        shortest=1,
    )
    defaults: Mapping[str, Any] = fields.mapping("fields of every item that does not say otherwise", default={})
    resume: bool = fields.flag(
        "keep what an earlier job with the same fields has made, if its files are still whole", default=True
    )
    report: str | None = fields.text(
        "absolute path of a JSON file that is written at the end, see Batches", default=None, shortest=1
    )
    priority: str = fields.choice("interactive work goes before batch work", "interactive", "batch", default="batch")
    deadline: float | None = fields.number(
        "time left until the rest is of no use any more", minimum=0.001, maximum=31_536_000, default=None, unit="s"
    )
    idempotency_key: str | None = fields.identifier(
        "chosen by the client, best a UUID: a second batch with this key is the same batch", default=None
    )

    def check_together(self) -> None:
        if bool(self.items) == (self.manifest is not None):
            raise BadRequest("Give either 'items', at least one, or 'manifest'.", field="items")
        # What would spoil every item is refused at once, not ten thousand times.
        known = fields.rules(Generate)
        for name, value in named(self.defaults).items():
            if name not in known or name in _NOT_OF_AN_ITEM:
                raise BadRequest(f"'{name}' is no field of an item, and so no default.", field=f"defaults.{name}"[:64])
            known[name][0].check(f"defaults.{name}", value)

    def item(self, body: Mapping[str, Any]) -> Generate:
        """The request of one item. Raises BadRequest with the field's name."""
        given = {**named(self.defaults), **named(body)}
        for name in _NOT_OF_AN_ITEM:
            if name in given:
                raise BadRequest(f"'{name}' belongs to the batch, not to an item.", field=name)
        return Generate.from_wire(given | {"priority": self.priority})


def named(item: Mapping[str, Any]) -> dict[str, Any]:
    """An item with the names of the fields of `generate`. Raises BadRequest when a field is given under two names."""
    for alias, name in ITEM_ALIASES.items():
        if alias in item and name in item:
            raise BadRequest(f"'{alias}' and '{name}' are the same field: give one of them.", field=alias)
    return {ITEM_ALIASES.get(key, key): value for key, value in item.items()}
