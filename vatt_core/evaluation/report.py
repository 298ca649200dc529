"""The table of the evaluation: rows with their bars, ceilings and controls, for terminals, scripts and documents."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vatt_core.errors import BadRequest
from vatt_core.media.atomic import write_bytes, writing_error

if TYPE_CHECKING:
    from rich.console import Group

Unit = Literal["share", "F1", "dB", "ln", "rho"]


@dataclass(frozen=True)
class Measure:
    """What a row measures. must, stretch: the bars on the held-out split; lower: a smaller value is better."""

    label: str
    unit: Unit
    must: float | None = None
    stretch: float | None = None
    lower: bool = False


MEASURES: dict[str, Measure] = {
    "caption_kind": Measure("caption names the kind", "share", 0.98, 0.995),
    "caption_attributes": Measure("caption gives the visible attributes, each", "share", 0.85, 0.95),
    "caption_all_attributes": Measure("caption gives the visible attributes, all of the clip", "share", 0.85, 0.95),
    "suggestions": Measure("three suggestions: different, all true of what is visible", "share", 0.90, 0.98),
    "codec_kind": Measure("codec: kind heard", "share", 0.90, 0.96),
    "codec_material": Measure("codec: material heard", "share"),
    "codec_onsets": Measure("codec: onset F1 ± 100 ms", "F1", 0.90, 0.96),
    "codec_level": Measure("codec: level error", "dB", 3.0, 1.0, lower=True),
    "codec_log_mel": Measure("codec: multi-scale log-mel", "ln", 0.45, 0.30, lower=True),
    "generated_kind": Measure("generated: kind heard", "share", 0.85, 0.95),
    "generated_material": Measure("generated: material of its caption heard", "share"),
    "generated_onsets": Measure("generated: onset F1 ± 100 ms against the true events", "F1", 0.70, 0.90),
    "generated_margin": Measure("generated: margin of that F1 over a same-kind shuffle", "F1", 0.20, 0.40),
    "generated_level": Measure("generated: level error against the true sound", "dB", lower=True),
    "force": Measure("generated: rank correlation of visible force and loudness", "rho", 0.5, 0.8),
    "steering": Measure("steering: material follows the swapped word, both directions", "share", 0.80, 0.95),
    "suggested_kind": Measure("generated from the first suggestion: kind heard", "share"),
    "suggested_onsets": Measure("generated from the first suggestion: onset F1 ± 100 ms", "F1"),
}
"""Every row that there is, in the order of the table."""


@dataclass(frozen=True)
class Row:
    """One measured figure. key: of MEASURES. group: "single" or "double". clips: how many clips went into it.

    ceiling: what true sound (or a true caption) reaches by the same measure; None where it is perfect by definition.
    controls: what chance reaches, by name. parts: the figure of parts of the set. Values may be NaN: not measurable on
    these clips.
    """

    key: str
    group: str
    value: float
    clips: int
    ceiling: float | None = None
    controls: dict[str, float] = field(default_factory=dict)
    parts: dict[str, float] = field(default_factory=dict)

    @property
    def measure(self) -> Measure:
        return MEASURES[self.key]

    @property
    def verdict(self) -> str:
        """ "stretch", "must" or "missed"; empty where there is no bar or no value."""
        measure = self.measure
        if measure.must is None or measure.stretch is None or math.isnan(self.value):
            return ""
        sign = -1 if measure.lower else 1
        if sign * self.value >= sign * measure.stretch:
            return "stretch"
        return "must" if sign * self.value >= sign * measure.must else "missed"

    def to_dict(self) -> dict[str, Any]:
        measure = self.measure
        values = dataclasses.asdict(self) | dataclasses.asdict(measure) | {"verdict": self.verdict}
        return _without_nan(values)


@dataclass(frozen=True)
class WorldReport:
    """A whole evaluation. judge: its accuracy on true sound of the same clips. seconds: per part."""

    model: str
    model_hash: str
    split: str
    clips: dict[str, int]
    rows: tuple[Row, ...]
    judge: dict[str, float]
    seconds: dict[str, float]

    def row(self, key: str, group: str = "single") -> Row | None:
        return next((row for row in self.rows if row.key == key and row.group == group), None)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; what is not measurable is null."""
        return _without_nan(
            {
                "model": self.model,
                "model_hash": self.model_hash,
                "split": self.split,
                "clips": self.clips,
                "judge": self.judge,
                "seconds": self.seconds,
                "rows": [row.to_dict() for row in self.rows],
            }
        )


TITLES = {
    "single": "one thing, one scene",
    "double": "two kinds or two scenes",
}
SPLITS = {"held_out": "held-out clips", "validation": "validation clips"}
HEADER = ("what", "clips", "measured", "must", "stretch", "true sound", "controls")


def cells(row: Row) -> tuple[str, ...]:
    """The cells of one row, in the order of HEADER."""
    measure = row.measure
    controls = ", ".join(f"{name} {shown(value, measure.unit)}" for name, value in row.controls.items())
    return (
        measure.label,
        str(row.clips),
        shown(row.value, measure.unit),
        _bar(measure, measure.must),
        _bar(measure, measure.stretch),
        "" if row.ceiling is None else shown(row.ceiling, measure.unit),
        controls,
    )


def shown(value: float, unit: Unit) -> str:
    if math.isnan(value):
        return "–"
    if unit == "share":
        return f"{100 * value:.1f} %"
    return f"{value:.1f} dB" if unit == "dB" else f"{value:.2f}"


def _bar(measure: Measure, value: float | None) -> str:
    if value is None:
        return ""
    number = f"{100 * value:g} %" if measure.unit == "share" else f"{value:.2f}"
    if measure.unit == "dB":
        number = f"{value:g} dB"
    return f"≤ {number}" if measure.lower else number


def terminal_table(report: WorldReport) -> Group:
    """The tables for a terminal."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    colours = {"stretch": "bold green", "must": "green", "missed": "bold red", "": ""}
    tables: list[Any] = []
    for group, rows in _groups(report).items():
        table = Table(title=f"{report.model}, {SPLITS[report.split]}: {TITLES[group]}", title_justify="left")
        for index, name in enumerate(HEADER):
            table.add_column(name, justify="left" if index in (0, 6) else "right")
        for row in rows:
            values = cells(row)
            table.add_row(*values[:2], Text(values[2], colours[row.verdict]), *values[3:])
        tables.append(table)
    return Group(*tables, Text(judge_line(report)))


def judge_line(report: WorldReport) -> str:
    """The judge's own accuracy, as a sentence."""
    said = ", ".join(f"{name} {shown(value, 'share')}" for name, value in report.judge.items())
    return f"The judge on true sound of these clips: {said}." if said else "The judge was not needed."


def markdown_table(report: WorldReport) -> str:
    """The tables as Markdown, with the parts of each figure below."""
    lines: list[str] = []
    if report.split != "held_out":
        lines += ["These are validation clips, on which settings were chosen.", ""]
    for group, rows in _groups(report).items():
        lines += [
            f"### {TITLES[group].capitalize()}",
            "",
            "| " + " | ".join(HEADER) + " |",
            "|---|" + "---:|" * 5 + "---|",
        ]
        for row in rows:
            values = list(cells(row))
            values[2] = {
                "stretch": f"**{values[2]}** ✓✓",
                "must": f"**{values[2]}** ✓",
                "missed": f"**{values[2]}** ✗",
            }.get(row.verdict, values[2])
            lines.append("| " + " | ".join(values) + " |")
        lines.append("")
        detailed = [row for row in rows if group == "single" and row.parts]
        lines += [f"- {row.measure.label}: {_parts(row)}" for row in detailed]
        lines += [""] if detailed else []
    lines += ["✓✓ reaches the stretch, ✓ the must, ✗ misses it.", "", DEFINITIONS, "", judge_line(report), ""]
    seconds = ", ".join(f"{name} {value:.0f} s" for name, value in report.seconds.items())
    lines += [f"Model `{report.model_hash[:12]}`; took {seconds}.", ""]
    return "\n".join(lines)


DEFINITIONS = (
    "Kind heard: the share of the things shown that are among the judge's n likeliest kinds, where n things are shown at once. "
    "Force: the mean of the rank correlations of single things with four events or more; its *clips* are these things. "
    "Material heard: of things that look alike in wood and metal. Steering: the clip counts when every such thing of it "
    "follows both words. Same kind: the caption or soundtrack of another clip of the same kinds; random: of any other."
)

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


def check_target(path: Path) -> str:
    """What stands in the Markdown file that tables are to be written to; of a new one, a title.

    Raises BadRequest for a file without the lines of BEGIN and END, ForbiddenPath and DiskFull where none can be written.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        text = f"# What the model reaches\n\n{BEGIN}\n{END}\n"
    except (OSError, UnicodeDecodeError):
        text = ""
    if BEGIN not in text or END not in text.split(BEGIN, 1)[1]:
        raise BadRequest(f"{path} is no text with the lines {BEGIN} and {END}. Add them, or name a new file.")
    try:
        tempfile.TemporaryFile(dir=path.absolute().parent).close()
    except OSError as error:
        raise writing_error(path, error) from error
    return text


def write_report(report: WorldReport, path: Path) -> None:
    """Write the tables to a Markdown file between its lines BEGIN and END; a new one gets them. Raises as `check_target`."""
    before, rest = check_target(path).split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    write_bytes(path, f"{before}{BEGIN}\n{markdown_table(report)}{END}{after}".encode())


def _groups(report: WorldReport) -> dict[str, list[Row]]:
    order = list(MEASURES)
    groups: dict[str, list[Row]] = {}
    for group in TITLES:
        rows = [row for row in report.rows if row.group == group]
        if rows:
            groups[group] = sorted(rows, key=lambda row: order.index(row.key))
    return groups


def _parts(row: Row) -> str:
    return ", ".join(f"{name} {shown(value, row.measure.unit)}" for name, value in row.parts.items())


def _without_nan(value: Any) -> Any:
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    return [_without_nan(inner) for inner in value] if isinstance(value, list | tuple) else value
