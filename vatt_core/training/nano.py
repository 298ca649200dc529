"""nano's recipe: every stage of its training in order.

The stages fall into three branches. The tower needs nothing of sound and language nor they of it, so on a machine with
several cores they run side by side; what joins them follows on all.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from vatt_core.errors import BadModel, BadRequest, VattError
from vatt_core.media.atomic import writing_error
from vatt_core.model.audio_transformer import AudioTransformer
from vatt_core.model.codec import Codec
from vatt_core.model.converter import Converter
from vatt_core.model.folder import build_part, load_part, save_part
from vatt_core.model.masking import CosineRatio, OftenHigh
from vatt_core.model.plan import chosen_device
from vatt_core.model.text import load_tokenizer, train_tokenizer
from vatt_core.model.vision import VisionTower
from vatt_core.training.audio import AudioStage, Questions
from vatt_core.training.codec import CodecStage, CodesStage, DecoderStage, EncoderStage, write_codebooks
from vatt_core.training.data import Rows, Stretch, WorldClips, frames_of, stretch, stretch_frames
from vatt_core.training.language import ConverterStage, LanguageStage, StateHeads, Stretches
from vatt_core.training.loop import Report, StageOptions, StageProgress, run_stage
from vatt_core.training.nano_config import LATENT, VOCABULARY, nano_config
from vatt_core.training.texts import tokenizer_corpus
from vatt_core.training.vision import VisionStage
from vatt_core.weights.space import need_space
from vatt_core.world.scene import Layout, Scene, describe, split_seed

TOWER = ("stretches", "vision")
SOUND_AND_LANGUAGE = ("sounds", "codes", "decoder", "encoder", "codec", "language")
JOINED = (
    "features",
    "converter_projection",
    "converter_lora",
    "converter_whole",
    "audio_instructions",
    "audio_captions",
    "ship",
)
STAGES = TOWER + SOUND_AND_LANGUAGE + JOINED

LAYOUTS: tuple[Layout | None, ...] = ("two_kinds", None, None)
"""Of the clips, taken in turn; None as the seed has it. Cuts come from single clips for nothing, two things at once do not."""
STRETCH_TOKENS = 6

QUESTIONS = Questions(
    fill_order="coarse_first",
    ratio=OftenHigh(CosineRatio(), share=0.35, low=0.9),
    codebook_weights=(4.0, 3.0, 1.0, 1.0),
    label_smoothing=0.05,
    event_weight=5.0,
    look_alike_weight=2.0,
)
"""What nano's audio transformer is asked: the first codebook decides what is heard and when, the first two how loud it is."""


WORD_WEIGHT = 8.0
"""Of the words that tell what is seen, in the loss of captions: enough that they are half of it."""
CAPTION_WEIGHT = 5.0
"""Of captions when the whole language model learns from real features: its states tell more than its texts read of them."""


@dataclass(frozen=True)
class Recipe:
    """How long each stage runs. docs/nano.md says how the shipped weights were made."""

    stretches: int = 14000
    clips: int = 3600
    texts: int = 8000
    codes: int = 900
    decoder: int = 4000
    encoder: int = 2400
    codec: int = 500
    vision: int = 5000
    language: int = 1200
    converter_projection: int = 200
    converter_lora: int = 900
    converter_whole: int = 1500
    audio_instructions: int = 100
    audio_captions: int = 2000


@dataclass
class NanoTraining:
    """All stages over one folder: `data/` clips, `stages/` checkpoints, `model/` the parts as they are finished."""

    folder: Path
    recipe: Recipe = field(default_factory=Recipe)
    device: str = "cpu"
    report: Report | None = None
    workers: int = 1

    def __post_init__(self) -> None:
        self.config = nano_config()
        self.timing = self.config.timing
        self.clips = WorldClips(self.folder / "data", "training", self.recipe.clips, self.timing, layouts=LAYOUTS)
        self.model_folder = self.folder / "model"

    # ---- what earlier stages left ----------------------------------------------------------------------------------

    def part(self, name: str) -> torch.nn.Module:
        """A finished part, or a new one with weights from a fixed seed."""
        try:
            return load_part(self.model_folder, self.config, name).to(self.device)
        except BadModel:
            return build_part(self.config, name).to(self.device)

    def vision_tower(self) -> VisionTower:
        part = self.part("vision")
        assert isinstance(part, VisionTower)
        return part

    def converter(self) -> Converter:
        part = self.part("converter")
        assert isinstance(part, Converter)
        return part

    def codec(self) -> Codec:
        part = self.part("codec")
        assert isinstance(part, Codec)
        return part

    def audio_transformer(self) -> AudioTransformer:
        part = self.part("audio_transformer")
        assert isinstance(part, AudioTransformer)
        return part

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        folder = self.model_folder / "tokenizer"
        if not (folder / "tokenizer.json").exists():
            train_tokenizer(tokenizer_corpus(self.told_scenes(), self.config.converter.template), VOCABULARY, folder)
        return load_tokenizer(folder)

    def told_scenes(self) -> list[Scene]:
        """What the texts are about: clips without pictures."""
        return [
            describe(split_seed("training", index), layout=LAYOUTS[index % len(LAYOUTS)])
            for index in range(self.recipe.texts)
        ]

    @cached_property
    def _features(self) -> Rows:
        shape = (self.recipe.clips, self.timing.frames, self.config.vision.feature_dim)
        return Rows(self.folder / "data" / "training" / "features.npy", shape, np.float16)

    @cached_property
    def _stretches(self) -> Rows:
        size = self.config.vision.image_size
        shape = (self.recipe.stretches, STRETCH_TOKENS * self.timing.frames_per_video_token, size, size, 3)
        return Rows(self.folder / "data" / "training" / "stretches.npy", shape, np.uint8)

    @cached_property
    def stretches(self) -> list[Stretch]:
        return [stretch(number, self.timing, STRETCH_TOKENS) for number in range(self.recipe.stretches)]

    @cached_property
    def _stretch_features(self) -> Rows:
        frames = STRETCH_TOKENS * self.timing.frames_per_video_token
        shape = (self.recipe.stretches, frames, self.config.vision.feature_dim)
        return Rows(self.folder / "data" / "training" / "stretch_features.npy", shape, np.float16)

    @cached_property
    def _codes(self) -> Rows:
        shape = (self.recipe.clips, self.timing.codebooks, self.timing.code_frames)
        return Rows(self.folder / "data" / "training" / "codes.npy", shape, np.int16)

    def features(self) -> Tensor:
        """Frame features of the training clips, float16 [N, F, D]."""
        return torch.from_numpy(np.array(self._features.read()))

    def codes(self) -> Tensor:
        """Codes of the training clips, int16 [N, K, T]."""
        return torch.from_numpy(np.array(self._codes.read()))

    # ---- stages ----------------------------------------------------------------------------------------------------

    def missing_bytes(self) -> int:
        """Bytes on the disk that what is drawn and seen does not take up yet."""
        return sum(
            rows.missing_bytes() for rows in (self.clips, self._stretches, self._stretch_features, self._features)
        )

    def run(self, stage: str) -> None:
        """Run one stage (a name of STAGES). A stage that is done returns quickly."""
        check_stage(stage)
        with torch.random.fork_rng():
            torch.manual_seed(STAGES.index(stage))
            getattr(self, f"run_{stage}")()

    def _options(
        self, stage: str, learning_rate: float, *, ema_decay: float | None = None, mixed_precision: bool = False
    ) -> StageOptions:
        seed = STAGES.index(stage) + 1
        return StageOptions(
            steps=getattr(self.recipe, stage),
            learning_rate=learning_rate,
            ema_decay=ema_decay,
            mixed_precision=mixed_precision,
            seed=seed,
        )

    def _run_stage(self, stage: object) -> None:
        run_stage(stage, self.folder / "stages", report=self.report)  # type: ignore[arg-type]

    def _count(self, stage: str) -> Callable[[int, int], None]:
        """A report of how many clips are done, now and then, with the time that is left."""
        begun = reported = time.monotonic()
        first: int | None = None

        def progress(done: int, total: int) -> None:
            nonlocal first, reported
            now = time.monotonic()
            if first is None:
                first = done
            elif self.report is not None and (now - reported >= 5 or done == total):
                reported = now
                eta = (now - begun) / max(1, done - first) * (total - done)
                self.report(StageProgress(stage, done, total, {}, eta))

        return progress

    def run_sounds(self) -> None:
        self.clips.write_sounds(workers=self.workers, progress=self._count("sounds"))

    def run_stretches(self) -> None:
        make = partial(stretch_frames, self.timing, self.config.vision.image_size)
        self._stretches.fill(self.stretches, make, workers=self.workers, progress=self._count("stretches"))

    def _codes_stage(self) -> CodesStage:
        options = self._options("codes", 1e-3, ema_decay=0.99)
        stage = CodesStage(self.clips.sounds, self.timing, LATENT, options, device=self.device)
        self._run_stage(stage)
        return stage

    def run_codes(self) -> None:
        stage, codec = self._codes_stage(), self.codec()
        write_codebooks(codec.model, stage.quantizer)
        save_part(self.model_folder, "codec", codec)

    def run_decoder(self) -> None:
        codes, codec = self._codes_stage(), self.codec()
        options = self._options("decoder", 1e-3, ema_decay=0.998)
        self._run_stage(DecoderStage(self.clips.sounds, self.timing, codec.model, codes.encode, options))
        save_part(self.model_folder, "codec", codec)

    def run_encoder(self) -> None:
        codes, codec = self._codes_stage(), self.codec()
        options = self._options("encoder", 1e-3, ema_decay=0.995)
        self._run_stage(EncoderStage(self.clips.sounds, self.timing, codec.model, codes.encode, options))
        save_part(self.model_folder, "codec", codec)

    def run_codec(self) -> None:
        """Both halves together; then every training clip is encoded."""
        codec = self.codec()
        options = self._options("codec", 2e-4, ema_decay=0.99)
        self._run_stage(CodecStage(self.clips.sounds, self.timing, codec.model, options))
        save_part(self.model_folder, "codec", codec)

        sounds = self.clips.sounds

        def encode(row: int) -> np.ndarray:
            wave = torch.from_numpy(sounds[row].astype(np.float32) / 32767)[None].to(self.device)
            with torch.inference_mode():
                return codec.encode(wave)[0].to(torch.int16).cpu().numpy()

        self._codes.fill(range(len(sounds)), encode, workers=0, progress=self._count("codec"))

    def run_vision(self) -> None:
        tower = self.vision_tower()
        options = self._options("vision", 1.5e-3, ema_decay=0.995, mixed_precision=True)
        self._run_stage(VisionStage(self._stretches.read(), self.stretches, self.timing, tower, options))
        save_part(self.model_folder, "vision", tower)

    def run_features(self) -> None:
        """What the tower sees of the stretches and, as they are drawn, of the clips, whose pictures are needed no more."""
        tower = self.vision_tower().eval()

        def look(frames: np.ndarray) -> np.ndarray:
            clip = torch.from_numpy(frames).to(self.device)
            return tower.encode(clip, batch_size=self.timing.frames).half().cpu().numpy()

        frames = self._stretches.read()
        make = partial(frames_of, self.timing, self.config.vision.image_size)
        workers = os.cpu_count() or 1
        with one_thread():
            self._stretch_features.fill(
                range(len(frames)), lambda row: look(np.array(frames[row])), workers=0, progress=self._count("features")
            )
            self._features.fill(self.clips.scenes, make, finish=look, workers=workers, progress=self._count("features"))

    def run_language(self) -> None:
        converter = self.converter()
        options = self._options("language", 1.5e-3, mixed_precision=True)
        self._run_stage(LanguageStage(self.told_scenes(), self.timing, converter, self.tokenizer, options))
        save_part(self.model_folder, "converter", converter)

    def _converter_stage(self, name: str, learn: str, learning_rate: float, *, caption_weight: float = 1.0) -> None:
        converter = self.converter()
        heads = StateHeads(self.timing, converter.hidden_size).to(self.device)
        stage = ConverterStage(
            name,
            self.features(),
            self.clips.scenes,
            Stretches(torch.from_numpy(np.array(self._stretch_features.read())), self.stretches),
            self.timing,
            converter,
            self.tokenizer,
            heads,
            self._options(name, learning_rate, ema_decay=0.995, mixed_precision=True),
            learn=learn,
            word_weight=WORD_WEIGHT,
            caption_weight=caption_weight,
        )
        self._run_stage(stage)
        save_part(self.model_folder, "converter", converter)

    def run_converter_projection(self) -> None:
        self._converter_stage("converter_projection", "video_proj", 2e-3)

    def run_converter_lora(self) -> None:
        self._converter_stage("converter_lora", "video_proj|lora_", 1e-3)

    def run_converter_whole(self) -> None:
        """The language model itself learns too, which a pretrained one would not need: what happens how fast is told from
        many tokens, and that it has not met among the concept vectors."""
        self._converter_stage("converter_whole", ".", 8e-4, caption_weight=CAPTION_WEIGHT)

    def _audio_stage(self, name: str, *, captions: bool) -> None:
        transformer = self.audio_transformer()
        transformer.codebooks.copy_(self.codec().codebooks())
        stage = AudioStage(
            name,
            self.codes(),
            self.features(),
            self.clips.scenes,
            self.timing,
            transformer,
            self.converter().eval(),
            self.tokenizer,
            self._options(name, 1e-3, ema_decay=0.998, mixed_precision=True),
            captions=captions,
            questions=QUESTIONS,
        )
        self._run_stage(stage)
        save_part(self.model_folder, "audio_transformer", transformer)

    def run_audio_instructions(self) -> None:
        self._audio_stage("audio_instructions", captions=False)

    def run_audio_captions(self) -> None:
        self._audio_stage("audio_captions", captions=True)

    def run_ship(self) -> None:
        """Write the finished model, in float16, to `folder/nano`."""
        target = self.folder / "nano"
        for name in ("vision", "converter", "audio_transformer", "codec"):
            save_part(target, name, load_part(self.model_folder, self.config, name), half=True)
        self.config.save(target / "config.json")
        (target / "tokenizer").mkdir(exist_ok=True)
        self.tokenizer.save_pretrained(str(target / "tokenizer"))


def check_stage(stage: str) -> None:
    """Raise BadRequest for what is no stage."""
    if stage not in STAGES:
        raise BadRequest(f"There is no stage {stage!r}; choose among {', '.join(STAGES)}.", stage=stage)


@contextmanager
def one_thread() -> Iterator[None]:
    """torch on one core, while other processes use the rest: threads that wait for one another there take many times as long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def train_nano(
    folder: Path,
    *,
    stages: Sequence[str] | None = None,
    device: str = "auto",
    recipe: Recipe | None = None,
    report: Report | None = None,
    workers: int | None = None,
) -> Path:
    """Train nano into `folder`, going on where an earlier run stopped. Returns the folder of the finished model.

    Without `stages`, everything runs; on a CPU with several cores sound and language run in a process of their own, beside
    the tower in this one. workers: processes that draw clips, by default one for each core that has nothing else to do.
    Raises BadRequest for a stage or device that there is not, DiskFull before anything is drawn or when the disk fills.
    """
    cores = os.cpu_count() or 1
    place = chosen_device(device)
    apart = stages is None and place.type == "cpu" and cores > 1
    for stage in stages or ():
        check_stage(stage)
    training = NanoTraining(folder, recipe or Recipe(), str(place), report, workers=workers or (1 if apart else cores))
    need_space(folder, training.missing_bytes(), "The training", cure="name a --folder on another disk")
    try:
        if apart:
            _tower_beside_sound_and_language(training)
        for stage in stages or (JOINED if apart else STAGES):
            training.run(stage)
    except OSError as error:
        raise writing_error(error.filename or folder, error) from error
    return folder / "nano"


def _tower_beside_sound_and_language(training: NanoTraining) -> None:
    """Run TOWER here and SOUND_AND_LANGUAGE in another process, each on one core."""
    command = [sys.executable, "-m", __name__, str(training.folder), "--stages", ",".join(SOUND_AND_LANGUAGE)]
    command += ["--device", training.device, "--recipe", json.dumps(asdict(training.recipe))]
    with subprocess.Popen(command) as side:

        def go_on() -> None:
            if side.poll():
                raise BadModel(
                    "The training of codec and language ended with an error, shown above; run the command again to go on."
                )

        report = training.report

        def report_both(progress: StageProgress) -> None:
            go_on()
            if report is not None:
                report(progress)

        training.report = report_both
        try:
            with one_thread():
                for stage in TOWER:
                    training.run(stage)
            side.wait()
            go_on()
        finally:
            training.report = report
            side.terminate()


def print_progress(progress: StageProgress) -> None:
    """One plain line per report."""
    figures = "  ".join(f"{name} {value:.3f}" for name, value in progress.figures.items())
    minutes, seconds = divmod(round(progress.eta), 60)
    print(f"{progress.stage} {progress.step}/{progress.steps}  {figures}  {minutes}:{seconds:02d} left", flush=True)


def main() -> int:
    """What `train_nano` runs beside itself: some stages, on one core."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--stages", required=True, help=f"comma-separated, of {', '.join(STAGES)}")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--recipe", default="{}", help="JSON, where it is not the usual one")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    try:
        train_nano(
            arguments.folder,
            stages=arguments.stages.split(","),
            device=arguments.device,
            recipe=Recipe(**json.loads(arguments.recipe)),
            report=print_progress,
            workers=1,
        )
    except VattError as error:
        print(error.message, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
