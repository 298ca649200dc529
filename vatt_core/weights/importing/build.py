"""A model folder out of the files of the official release, written whole or not at all."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from vatt_core.errors import BadModel, BadRequest
from vatt_core.media.atomic import writing_error
from vatt_core.model.configuration import CodecConfig, Family, ModelConfig
from vatt_core.model.folder import check_tensors
from vatt_core.model.official_names import PREFIX
from vatt_core.model.text import load_tokenizer
from vatt_core.weights.fingerprint import CONFIG_FILE, TOKENIZER_FOLDER, file_hash, model_files, part_file
from vatt_core.weights.importing.audio import AudioPart, read_audio, window_of
from vatt_core.weights.importing.encodec import read_compression
from vatt_core.weights.importing.found import Files, Place, Role, Unpacker, look_at
from vatt_core.weights.importing.language import LanguagePart, Source, read_converter, read_source
from vatt_core.weights.importing.placing import clear_up, put, work_folder
from vatt_core.weights.importing.reading import read_codebooks, read_folder, read_pickled, read_tensors
from vatt_core.weights.importing.vision import CONFIG as VISION_CONFIG
from vatt_core.weights.importing.vision import read_vision
from vatt_core.weights.importing.writing import write_tensors
from vatt_core.weights.record import describe_file, write_record
from vatt_core.weights.space import need_space

Report = Callable[[str], None]
Store = Literal["source", "float32", "float16", "bfloat16"]

_TOKENIZER = re.compile(
    r"^(tokenizer\.(model|json)|tokenizer_config\.json|special_tokens_map\.json|added_tokens\.json)$"
)
_BASE_WEIGHTS = re.compile(r"^(model|pytorch_model)(-\d+-of-\d+)?\.(safetensors|bin)(\.index\.json)?$")
_TEXT_STEERED = re.compile(r"(^|[_-])T(?=[_.-])", re.IGNORECASE)
_WHAT: Mapping[Role, str] = {
    "base": "folder of the base language model (config.json, weights, tokenizer.model)",
    "delta": "fine-tuned delta (pytorch_model.bin)",
    "checkpoint": "VATT checkpoint (a .ckpt of vatt_models.zip)",
    "codebooks": "file of codebooks (meta_pretrain_vgg_encodec_embed.pt)",
    "word_embeds": "token table of Gemma (word_embeds.pth)",
    "codec": "codec of AudioGen (compression_state_dict.bin of audiogen_models.zip)",
    "vision": "file of EVA-CLIP weights (open_clip_model.safetensors or open_clip_pytorch_model.bin)",
}


@dataclass(frozen=True)
class ImportOptions:
    """trust: let pickled files run what they name. replace: over an installed model. store: the dtype of the converter's
    weights in the folder ("source": as in the files). normalise_features, lora_alpha: open points of the release, see
    docs/models.md. parts: role -> file, where finding it by name fails.
    """

    trust: bool = False
    replace: bool = False
    store: Store = "source"
    normalise_features: bool = False
    lora_alpha: int = 32
    parts: Mapping[str, Path] = field(default_factory=dict)


@dataclass
class ImportReport:
    """What became of the files. sources: role -> file. ignored: file -> keys that no part needed. notes: what was
    chosen or found odd."""

    folder: Path
    sources: dict[str, str] = field(default_factory=dict)
    ignored: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Part:
    """Tensors of a part by our names. source: the file that most of them come from; origin: name -> file and key."""

    state: Mapping[str, Tensor]
    source: str
    origin: Mapping[str, tuple[str, str]] = field(default_factory=dict)


def import_model(
    name: str,
    paths: Iterable[Path],
    *,
    folder: Path,
    family: Family,
    text_steered: bool,
    options: ImportOptions | None = None,
    report: Report = lambda line: None,
) -> ImportReport:
    """Make the model folder `folder` for the model `name` from archives, folders and files of the official release.

    family, text_steered: which of the four checkpoints. report: called with a line before each part. The folder appears
    when everything is there and right; otherwise nothing stays. Raises BadModel naming file, part and tensor, BadRequest
    when several files could be a part, InputNotVisible, DiskFull, ForbiddenPath.
    """
    options = options or ImportOptions()
    clear_up(folder)
    if folder.exists() and not options.replace:
        raise BadRequest(f"The model {name} is installed at {folder}. Add --replace to import it anew.")
    files = look_at(paths, options.parts)
    work = work_folder(folder)
    try:
        try:
            (work / "model").mkdir(parents=True)
        except OSError as error:
            raise writing_error(folder, error) from error
        importing = _Import(name, files, work, family, text_steered, options, report)
        try:
            done = importing.run(folder)
        except BadModel as error:
            # Speak of the files that were given, not of where they were unpacked.
            given = importing.unpacker.as_given
            details = {key: given(value) if isinstance(value, str) else value for key, value in error.details.items()}
            message = ". ".join([given(error.message).rstrip("."), *files.damaged])
            raise BadModel(message, **details) from error
        put(work / "model", folder)
        return done
    finally:
        shutil.rmtree(work, ignore_errors=True)


class _Import:
    """One run. Every step reads a part, checks it against the model it belongs to, and writes it."""

    def __init__(
        self,
        name: str,
        files: Files,
        work: Path,
        family: Family,
        text_steered: bool,
        options: ImportOptions,
        report: Report,
    ) -> None:
        self.name, self.files, self.made = name, files, work / "model"
        self.family, self.text_steered, self.options, self.report = family, text_steered, options, report
        self.unpacker = Unpacker(work / "unpacked", report)
        self.done = ImportReport(work, notes=list(files.damaged))

    def run(self, folder: Path) -> ImportReport:
        self.done.folder = folder
        # Everything is named before anything is unpacked, so that a missing part is told at once.
        base, checkpoint = self._base(), self._checkpoint()
        codec_place, vision_place = self._only("codec"), self._vision()
        compression = read_compression(self.unpacker.file(codec_place), trust=self.options.trust)
        hop = 1
        for ratio in compression.encodec["upsampling_ratios"]:
            hop *= ratio
        timing = window_of(compression.encodec["sampling_rate"], hop)

        path = self.unpacker.file(checkpoint)
        self.report(f"reading {path.name}")
        tensors = read_tensors(path, trust=self.options.trust)
        audio = read_audio(tensors, path, self._codebooks(tensors), timing=timing)
        language = self._converter(base, path, tensors, audio)
        described = [place for place in self.files.beside(vision_place) if place.name == VISION_CONFIG]
        weights = self.unpacker.files([vision_place, *described])[0]
        vision_config, vision, surplus = read_vision(
            weights, normalise=self.options.normalise_features, trust=self.options.trust
        )
        if vision_config.feature_dim != language.feature_dim:
            raise BadModel(
                f"{weights} gives {vision_config.feature_dim} features per frame, the converter of {path.name} reads "
                f"{language.feature_dim}; give the image tower of the release",
                file=str(weights),
            )
        if audio.config.condition_dim != int(language.config.llm["hidden_size"]):
            raise BadModel(
                f"{path} was trained on states of width {audio.config.condition_dim}, the base model has "
                f"{language.config.llm['hidden_size']}; give files of one model",
                file=str(path),
            )
        config = ModelConfig(
            name=self.name,
            timing=audio.timing,
            vision=vision_config,
            converter=language.config,
            audio=audio.config,
            codec=CodecConfig(encodec=compression.encodec),
        )
        self._compare_codebooks(audio, compression.state, codec_place)
        self._ignore(str(weights), surplus)
        for file, keys in language.ignored.items():
            self._ignore(file, keys)
        self.done.notes += map(self.unpacker.as_given, language.notes)
        tables = str(path) if audio.own_codebooks else self.done.sources["codebooks"]
        parts = {
            "vision": _Part(vision, str(weights)),
            "converter": _Part(language.state, str(path), language.origin),
            "audio_transformer": _Part(audio.state, str(path), {"codebooks": (tables, "codebooks")}),
            "codec": _Part(compression.state, str(codec_place)),
        }
        for name, part in parts.items():
            try:
                check_tensors(config, name, part.state, source=part.source)
            except BadModel as error:
                if "file" in error.details:
                    raise
                # The part could not even be built.
                raise BadModel(
                    f"{part.source}: {error.message}; give the {name} of the release", file=part.source, part=name
                ) from error
        try:
            self._write(config, parts, base)
        except OSError as error:
            raise writing_error(folder, error) from error
        return self.done

    # ---- which file is what ----------------------------------------------------------------------------------------

    def _only(self, role: Role, *, fits: Callable[[Place], bool] | None = None, said: str = "") -> Place:
        """The one file that can be `role`. Raises BadModel when there is none, BadRequest when there are several."""
        found = self.files.candidates(role)
        fitting = [place for place in found if fits is None or role in self.files.named or fits(place)]
        if not fitting:
            seen = f"; there is {', '.join(place.name for place in found)}" if found else ""
            raise BadModel(
                f"{self.name} cannot be imported: no {_WHAT[role]}{said} is among the files given{seen}. Give it too, or "
                f"name it with --part {role}=FILE.",
                part=role,
            )
        if len(fitting) > 1:
            raise BadRequest(
                f"Several files can be the {role} of {self.name}: {', '.join(map(str, fitting))}. Name one with "
                f"--part {role}=FILE (in an archive: ARCHIVE:MEMBER).",
                part=role,
            )
        self.done.sources[role] = str(fitting[0])
        return fitting[0]

    def _base(self) -> Place:
        return self._only("base", fits=lambda place: self.files.model_type(place) == self.family,
                          said=f" for {self.family.capitalize()}")  # fmt: skip

    def _checkpoint(self) -> Place:
        candidates = self.files.candidates("checkpoint")
        if len(candidates) == 1 and not re.search("llama|gemma", candidates[0].name, re.IGNORECASE):
            return self._only("checkpoint")  # named by its owner: its content must tell

        def fits(place: Place) -> bool:
            steered = _TEXT_STEERED.search(place.name) is not None
            return self.family in place.name.lower() and steered == self.text_steered

        kind = f"{self.family.capitalize()}{'-T' if self.text_steered else ' without T'}"
        return self._only("checkpoint", fits=fits, said=f" of {kind}")

    def _vision(self) -> Place:
        """Of two forms of the same weights in one folder, the one that needs no unpickling."""
        found = self.files.candidates("vision")
        safe = [place for place in found if place.name.endswith(".safetensors")]
        if len({place.folder for place in found}) == 1 and len(safe) == 1:
            self.done.sources["vision"] = str(safe[0])
            return safe[0]
        return self._only("vision")

    # ---- parts -----------------------------------------------------------------------------------------------------

    def _codebooks(self, checkpoint: Mapping[str, Tensor]) -> Sequence[Tensor] | None:
        if any(key.startswith(f"{PREFIX}quantizer") for key in checkpoint):
            self.done.notes.append("the checkpoint carries trained codebooks of its own, which go before the file")
            if not self.files.candidates("codebooks"):
                return None
        return read_codebooks(self.unpacker.file(self._only("codebooks")), trust=self.options.trust)

    def _converter(
        self, base: Place, checkpoint: Path, tensors: Mapping[str, Tensor], audio: AudioPart
    ) -> LanguagePart:
        beside = self.files.beside(base)
        needed = [place for place in beside if _TOKENIZER.match(place.name) or _BASE_WEIGHTS.match(place.name)]
        folder = self.unpacker.files([base, *needed])[0].parent
        sources = []
        if any(_BASE_WEIGHTS.match(place.name) for place in needed):
            self.report("reading the base model")
            weights = read_folder(folder, trust=self.options.trust)
            sources += [read_source(file, "base", shard) for file, shard in weights.items()]
        deltas = []
        for place in self.files.candidates("delta"):
            path = self.unpacker.file(place)
            delta = read_source(path, "delta", read_tensors(path, trust=self.options.trust))
            if "delta" in self.files.named or len(self.files.candidates("delta")) == 1 or delta.family == self.family:
                deltas.append((place, delta))
        if len(deltas) > 1:
            raise BadRequest(
                f"Several files can be the delta of {self.name}: {', '.join(str(place) for place, _ in deltas)}. Name "
                "one with --part delta=FILE.",
                part="delta",
            )
        for place, delta in deltas:
            self.done.sources["delta"] = str(place)
            sources.append(delta)
        if self.family == "gemma" and (tables := self.files.candidates("word_embeds")):
            place = self._only("word_embeds") if len(tables) > 1 else tables[0]
            self.done.sources["word_embeds"] = str(place)
            sources.append(self._word_embeds(self.unpacker.file(place)))
        sources.append(read_source(checkpoint, "checkpoint", tensors))
        surplus = sorted(key for key in tensors if not key.startswith((PREFIX, "encoder.", "embed_tokens.")))
        self._ignore(str(checkpoint), surplus)
        return read_converter(folder, sources, timing=audio.timing, lora_alpha=self.options.lora_alpha)

    def _word_embeds(self, path: Path) -> Source:
        content = read_pickled(path, trust=self.options.trust)
        table = next(iter(content.values())) if isinstance(content, dict) and len(content) == 1 else content
        if not isinstance(table, Tensor) or table.ndim != 2:
            raise BadModel(f"{path} is no table of tokens [vocabulary, width]; fetch it again", file=str(path))
        name = "embed_tokens.weight"
        return Source(path, "token table", {name: table.detach()}, {name: name}, "gemma")

    def _compare_codebooks(self, audio: AudioPart, codec: Mapping[str, Tensor], place: Place) -> None:
        """The transformer's codebooks should be those of the codec (reference 11). Raises BadModel for other sizes."""
        ours = audio.state["codebooks"]
        names = [f"model.quantizer.layers.{book}.codebook.embed" for book in range(len(ours))]
        entries = [codec[name] for name in names if name in codec]
        surplus = f"model.quantizer.layers.{len(ours)}.codebook.embed" in codec
        if len(entries) != len(ours) or surplus or any(table.shape != ours.shape[1:] for table in entries):
            shapes = [list(value.shape) for key, value in codec.items() if key.endswith(".codebook.embed")]
            raise BadModel(
                f"{place}: its codebooks have the shapes {shapes}, the audio transformer was trained on "
                f"{len(ours)} of {list(ours.shape[1:])}; give the codec that belongs to it",
                file=str(place),
            )
        if not audio.own_codebooks and not torch.equal(torch.stack(entries).float(), ours):
            self.done.notes.append(
                "the codebooks of the file differ from those of the codec: the transformer reads the file's, sound is "
                "made with the codec's"
            )

    def _ignore(self, file: str, keys: Sequence[str]) -> None:
        if keys:
            self.done.ignored.setdefault(self.unpacker.as_given(file), []).extend(keys)

    # ---- writing ---------------------------------------------------------------------------------------------------

    def _write(self, config: ModelConfig, parts: Mapping[str, _Part], base: Place) -> None:
        store = None if self.options.store == "source" else getattr(torch, self.options.store)
        kinds = {name: store if name == "converter" else torch.float32 for name in parts}
        size = sum(_size(part.state, kinds[name]) for name, part in parts.items())
        need_space(self.made, size, f"The model {self.name}")
        (self.made / TOKENIZER_FOLDER).mkdir()
        words = [place for place in self.files.beside(base) if _TOKENIZER.match(place.name)]
        for path in self.unpacker.files(words):
            shutil.copyfile(path, self.made / TOKENIZER_FOLDER / path.name)
        try:
            vocabulary = len(load_tokenizer(self.made / TOKENIZER_FOLDER))
        except BadModel as error:
            raise BadModel(
                f"No tokenizer lies beside {base} that can be read (its tokenizer.model or tokenizer.json is missing or "
                "damaged); give the whole folder of the base model",
                part="base",
            ) from error
        if vocabulary > int(config.converter.llm["vocab_size"]):
            raise BadModel(
                f"{base}: its tokenizer has {vocabulary} entries, its model {config.converter.llm['vocab_size']}; give "
                "files of one model",
                part="base",
            )
        for name, part in parts.items():
            self.report(f"writing {name}")
            write_tensors(
                part_file(self.made, name), part.state, source=part.source, dtype=kinds[name], origin=part.origin
            )
        config.save(self.made / CONFIG_FILE)
        write_record(self.made, self._record())

    def _record(self) -> dict[str, Any]:
        self.report("writing down the hashes")
        return {
            "name": self.name,
            "imported": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "sources": self.done.sources,
            "notes": self.done.notes,
            "ignored": self.done.ignored,
            "options": {
                "store": self.options.store,
                "normalise_features": self.options.normalise_features,
                "lora_alpha": self.options.lora_alpha,
            },
            "files": {
                path.relative_to(self.made).as_posix(): describe_file(path, file_hash(path))
                for path in model_files(self.made)
            },
        }


def _size(state: Mapping[str, Tensor], dtype: torch.dtype | None) -> int:
    width = None if dtype is None else torch.empty((), dtype=dtype).element_size()
    return sum(value.numel() * (width or value.element_size()) for value in state.values())


__all__ = ["ImportOptions", "ImportReport", "import_model"]
