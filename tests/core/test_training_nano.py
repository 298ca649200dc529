"""nano's recipe, stage by stage and as one call; the same stages on models of the official form."""

from __future__ import annotations

import dataclasses
import re
from fractions import Fraction
from importlib.resources import files
from pathlib import Path

import pytest
import torch

from vatt_core.errors import BadModel, BadRequest, DiskFull
from vatt_core.model.audio_transformer import AudioTransformer
from vatt_core.model.configuration import AudioTransformerConfig, ConverterConfig, Family, ModelConfig, VisionConfig
from vatt_core.model.converter import Converter
from vatt_core.model.folder import build_part
from vatt_core.model.text import load_tokenizer, train_tokenizer
from vatt_core.timing import Timing
from vatt_core.training.audio import AudioStage
from vatt_core.training.data import stretch
from vatt_core.training.language import ConverterStage, StateHeads, Stretches, seen_word_weights, weighed_cross_entropy
from vatt_core.training.loop import StageOptions, StageProgress, TrainingStage, run_stage
from vatt_core.training.nano import JOINED, SOUND_AND_LANGUAGE, STAGES, NanoTraining, Recipe, train_nano
from vatt_core.training.nano_config import VOCABULARY, nano_config
from vatt_core.training.texts import tokenizer_corpus
from vatt_core.weights.fingerprint import model_files
from vatt_core.world.scene import describe, split_seed

SMALL = Recipe(
    stretches=6, clips=3, texts=6, codes=5, decoder=15, encoder=5, codec=20, vision=15, language=40, converter_projection=15,
    # The audio transformer's first steps mostly learn how often each code occurs, which few rows may not show.
    converter_lora=5, converter_whole=5, audio_instructions=6, audio_captions=40,
)  # fmt: skip
LEARNT = [stage for stage in STAGES if stage not in ("stretches", "sounds", "features", "ship")]


class Watched(NanoTraining):
    """The recipe at its smallest: few rows per step, at once at the full rate. Keeps the loss on the same rows before and
    after each stage."""

    def _run_stage(self, stage: object) -> None:
        assert isinstance(stage, TrainingStage)
        stage.batch = 2  # type: ignore[attr-defined]
        stage.options = dataclasses.replace(stage.options, warm_up_steps=1, ema_decay=None)
        before = self._loss(stage)
        super()._run_stage(stage)
        self.losses.setdefault(stage.name, (before, self._loss(stage)))

    @torch.no_grad()
    def _loss(self, stage: TrainingStage) -> float:
        draws = (torch.Generator().manual_seed(seed) for seed in range(1, 4))
        return sum(float(stage.losses(0, draw)["loss"]) for draw in draws)

    losses: dict[str, tuple[float, float]]


def test_every_stage_of_nano_learns_and_the_model_is_complete(tmp_path: Path) -> None:
    training = Watched(tmp_path, SMALL)
    training.losses = {}
    for stage in STAGES:
        training.run(stage)
    assert list(training.losses) == LEARNT
    fell = {stage: after < before for stage, (before, after) in training.losses.items()}
    assert all(fell.values()), training.losses
    assert len(model_files(tmp_path / "nano")) > 5
    for stage in ("nonsense", "__init__"):
        with pytest.raises(BadRequest):
            training.run(stage)


ONE_STEP = dataclasses.replace(SMALL, **dict.fromkeys(LEARNT, 1), stretches=2, clips=2, texts=2)


def test_one_call_trains_tower_and_sound_side_by_side_and_goes_on_after_a_stop(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    seen: list[str] = []

    def stop(progress: StageProgress) -> None:
        seen.append(progress.stage)
        if progress.stage == "converter_projection":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_nano(tmp_path, device="cpu", recipe=ONE_STEP, report=stop)
    assert seen == ["vision", "converter_projection"]
    seen.clear()
    model = train_nano(tmp_path, device="cpu", recipe=ONE_STEP, report=lambda progress: seen.append(progress.stage))
    assert len(model_files(model)) > 5
    assert seen == [stage for stage in JOINED if stage in LEARNT]
    done = [line.split()[0] for line in capfd.readouterr().out.splitlines() if " 1/1 " in line]
    assert done == [stage for stage in SOUND_AND_LANGUAGE if stage in LEARNT]


def test_an_error_beside_the_tower_ends_the_training(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data" / "training" / "sounds.npy").mkdir(parents=True)
    with pytest.raises(BadModel):
        train_nano(tmp_path, device="cpu", recipe=ONE_STEP, report=print)
    said = capfd.readouterr().err
    assert "sounds.npy" in said and "Traceback" not in said


def test_a_disk_that_is_too_small_is_told_before_anything_is_drawn(tmp_path: Path) -> None:
    with pytest.raises(DiskFull):
        train_nano(tmp_path / "much", device="cpu", recipe=dataclasses.replace(ONE_STEP, stretches=10**10))
    assert not (tmp_path / "much").exists()


@pytest.mark.parametrize("device", ["cdua", "cuda:99"])
def test_a_device_that_is_not_there_is_told_before_anything_is_drawn(tmp_path: Path, device: str) -> None:
    with pytest.raises(BadRequest):
        train_nano(tmp_path / "run", device=device)
    assert not (tmp_path / "run").exists()


@pytest.fixture
def converter_stage() -> ConverterStage:
    """Of nano's size, on two clips and two stretches of noise; with the draws of seed 0 its first rows show both."""
    config, draws = nano_config(), torch.Generator().manual_seed(0)
    timing, converter = config.timing, build_part(config, "converter")
    assert isinstance(converter, Converter)
    seen, shown = (
        torch.randn(2, frames, config.vision.feature_dim, generator=draws).half()
        for frames in (timing.frames, 6 * timing.frames_per_video_token)
    )
    return ConverterStage(
        "converter",
        seen,
        [describe(split_seed("training", index), seconds=10) for index in range(2)],
        Stretches(shown, [stretch(number, timing, 6) for number in range(2)]),
        timing,
        converter,
        load_tokenizer(Path(str(files("vatt_core") / "nano" / "tokenizer"))),
        StateHeads(timing, converter.hidden_size),
        StageOptions(steps=1, learning_rate=1e-3),
        learn="video_proj",
        batch=6,
    )


def test_features_of_half_precision_are_learnt_from_with_products_in_bfloat16(converter_stage: ConverterStage) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        loss = converter_stage.losses(0, torch.Generator().manual_seed(0))["loss"]
    loss.backward()
    assert torch.isfinite(loss) and converter_stage.converter.video_proj.weight.grad is not None


def test_captions_count_as_much_as_they_are_weighed(converter_stage: ConverterStage) -> None:
    plain = converter_stage.losses(0, torch.Generator().manual_seed(0))
    converter_stage.caption_weight = 5.0
    weighed = converter_stage.losses(0, torch.Generator().manual_seed(0))
    torch.testing.assert_close(weighed["loss"] - plain["loss"], 4 * plain["caption"])


@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_the_same_stages_train_models_of_the_official_form(tmp_path: Path, family: Family) -> None:
    timing = Timing(window=Fraction(4), code_rate=Fraction(10), sample_rate=160, codebooks=3, codebook_size=16)
    llm = {
        "vocab_size": 512,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    marks = {"head_dim": 8, "num_key_value_heads": 1, "pad_token_id": 0} if family == "gemma" else {"pad_token_id": 0}
    heads = {"encoder_heads": 2, "decoder_heads": 2, "dim_head": 8, "encoder_layers": 1, "decoder_layers": 1}
    config = ModelConfig(
        name="small",
        timing=timing,
        vision=VisionConfig(feature_dim=6),
        converter=ConverterConfig(family=family, llm=llm | marks),
        audio=AudioTransformerConfig(dim=16, latent_dim=8, condition_dim=16, **heads),
    )
    scenes = [describe(split_seed("training", index), layout="single", seconds=4) for index in range(4)]
    tokenizer = train_tokenizer(tokenizer_corpus(scenes, config.converter.template), 512, tmp_path / "tokenizer")
    draws = torch.Generator().manual_seed(0)
    features = torch.randn(4, timing.frames, 6, generator=draws)
    converter, transformer = (build_part(config, name) for name in ("converter", "audio_transformer"))
    assert isinstance(converter, Converter) and isinstance(transformer, AudioTransformer)
    options = StageOptions(
        steps=8,
        learning_rate=5e-3,
        schedule="linear",
        warm_up_steps=2,
        weight_decay=1e-6,
        betas=(0.9, 0.999),
        clip_norm=None,
    )
    texts, codes = tokenizer, torch.randint(16, (4, 3, timing.code_frames), generator=draws).to(torch.int16)
    for name, learn in (("projection", "video_proj"), ("lora", "video_proj|lora_")):
        before = {key: value.clone() for key, value in converter.state_dict().items()}
        stage = ConverterStage(
            name,
            features,
            scenes,
            None,
            timing,
            converter,
            texts,
            StateHeads(timing, 16),
            options,
            learn=learn,
            batch=4,
        )
        stages_learn(stage, tmp_path)
        changed = {key for key, value in converter.state_dict().items() if not torch.equal(value, before[key])}
        assert changed and all(re.search(learn, key) for key in changed)
    audio = AudioStage(
        "audio", codes, features, scenes, timing, transformer, converter.eval(), texts, options, captions=True, batch=4
    )
    question = audio.questions.ask(codes.long(), mask_token=timing.mask, generator=draws)
    assert question.codebooks is None and question.targets.shape == codes.shape
    stages_learn(audio, tmp_path)


def test_the_words_that_tell_what_is_seen_count_more_in_a_caption() -> None:
    tokenizer = load_tokenizer(Path(str(files("vatt_core") / "nano" / "tokenizer")))
    weights = seen_word_weights(tokenizer, VOCABULARY, 8.0)
    text = "a small red wooden ball bounces"
    told = {tokenizer.decode([token]).strip(): float(weights[token]) for token in tokenizer.encode(text)[1:]}
    # The material cannot be seen; which one a caption names is drawn.
    assert told == {"a": 1, "small": 8, "red": 8, "wooden": 1, "ball": 8, "bounces": 1}
    assert set(weights.tolist()) == {1.0, 8.0}


def test_weights_of_tokens_do_not_change_what_is_learnt_to_be_how_likely() -> None:
    """Of four texts, three leave out what the fourth says: the gradient is zero where that is told with one in four."""
    labels = torch.tensor([[0, 1], [0, 1], [0, 1], [0, 2]])
    logits = torch.tensor([0.0, 3.0, 1.0]).log().expand(4, 2, 3).clone().requires_grad_(True)
    loss = weighed_cross_entropy(logits, labels, torch.tensor([1.0, 1.0, 8.0]))
    loss.backward()
    assert logits.grad is not None and torch.allclose(logits.grad.sum((0, 1)), torch.zeros(3), atol=1e-6)
    # Three texts of weight 1 with 3 / 11, one of weight 8 with 8 / 11.
    shares = torch.tensor([3 / 11, 8 / 11])
    assert torch.allclose(loss, -(shares * shares.log()).sum())


def stages_learn(stage: ConverterStage | AudioStage, folder: Path) -> None:
    """Run a stage; its loss on the same draws falls."""

    @torch.no_grad()
    def loss() -> float:
        return sum(float(stage.losses(0, torch.Generator().manual_seed(seed))["loss"]) for seed in range(4))

    before = loss()
    run_stage(stage, folder)
    assert loss() < before
