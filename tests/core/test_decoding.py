"""Decoding: what is known stays, rows are independent, the schedule decides what it should, options are checked."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from vatt_core.errors import BadRequest, Cancelled
from vatt_core.model.audio_transformer import AudioTransformer
from vatt_core.model.choosing import DecodingOptions, nearest_to_expected, sample_tokens
from vatt_core.model.configuration import AudioTransformerConfig, DecodingDefaults
from vatt_core.model.decoding import Condition, generate_codes, hidden_after
from vatt_core.timing import Timing

TIMING = Timing(
    window=Fraction(2), frame_rate=Fraction(4), video_token_rate=Fraction(2), code_rate=Fraction(8), codebooks=3,
    codebook_size=11,
)  # fmt: skip
MASK = TIMING.mask
BOTH_ORDERS = [
    DecodingOptions(steps=5, top_k=6),
    DecodingOptions(fill_order="coarse_first", steps_per_codebook=(4, 2, 1), top_k=6),
    DecodingOptions(fill_order="coarse_first", steps_per_codebook=(4, 2, 1), top_k=6, drawn_codebooks=1),
    DecodingOptions(steps=5, top_k=6, drawn_codebooks=2),
]


@pytest.fixture(scope="module")
def model() -> AudioTransformer:
    config = AudioTransformerConfig(
        dim=24, encoder_layers=1, decoder_layers=1, encoder_heads=3, decoder_heads=2, dim_head=8, latent_dim=6,
        condition_dim=10, visual_positions=9, token_order="aligned", video_to_audio=True,
    )  # fmt: skip
    model = AudioTransformer(config, TIMING)
    model.initialise(torch.Generator().manual_seed(3))
    with torch.no_grad():
        model.heads.weight *= 4  # clear preferences
    return model.eval()


def condition(seed: int, slots: int = 7) -> Condition:
    pad_mask = torch.ones(slots)
    pad_mask[4:5] = 0
    return Condition(torch.randn(slots, 10, generator=torch.Generator().manual_seed(seed)), pad_mask)


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.mark.parametrize("options", BOTH_ORDERS)
def test_everything_is_decided_and_follows_the_seed(model: AudioTransformer, options: DecodingOptions) -> None:
    first, again, other = (
        generate_codes(model, [condition(1)], options=options, generators=generators(seed)) for seed in (4, 4, 5)
    )
    assert first.shape == (1, 3, 16)
    assert ((first >= 0) & (first < MASK)).all()
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("options", BOTH_ORDERS)
def test_a_row_of_a_batch_equals_the_same_request_alone(model: AudioTransformer, options: DecodingOptions) -> None:
    known = torch.full((3, 3, 16), MASK)
    known[1, :, :9] = 2  # another number of hidden codes
    rows = [condition(1), condition(2, slots=5), condition(3, slots=9)]
    negatives = [None, condition(8, slots=10), None]
    together = generate_codes(
        model, rows, options=options, generators=generators(1, 2, 3), negatives=negatives, known=known
    )
    for row in range(3):
        alone = generate_codes(
            model,
            rows[row : row + 1],
            options=options,
            generators=generators(row + 1),
            negatives=negatives[row : row + 1],
            known=known[row : row + 1],
        )
        assert torch.equal(together[row], alone[0])


@pytest.mark.parametrize("options", BOTH_ORDERS)
def test_known_codes_are_kept_at_any_length(model: AudioTransformer, options: DecodingOptions) -> None:
    generator = torch.Generator().manual_seed(0)
    known = torch.randint(0, MASK, (2, 3, 21), generator=generator)
    hidden = torch.rand(2, 3, 21, generator=generator) < 0.4
    hidden[1] = False
    given = known.masked_fill(hidden, MASK)
    before = given.clone()
    codes = generate_codes(
        model, [condition(1), condition(2)], options=options, generators=generators(1, 2), known=given
    )
    assert torch.equal(codes[~hidden], known[~hidden])
    assert (codes < MASK).all()
    assert torch.equal(given, before)


@pytest.mark.parametrize("steps", [1, 2, 7, 40])
def test_hidden_codes_fall_by_the_schedule(model: AudioTransformer, steps: int) -> None:
    counts: list[int] = []
    handle = model.register_forward_pre_hook(lambda _, arguments: counts.append(int((arguments[0][0] == MASK).sum())))
    generate_codes(model, [condition(1)], options=DecodingOptions(steps=steps), generators=generators(1))
    handle.remove()
    assert counts[0] == 48
    for step, (hidden, after) in enumerate(pairwise(counts)):
        assert after == max(1, min(hidden - 1, hidden_after(step, steps, 48)))


def test_coarse_first_decides_codebook_after_codebook(model: AudioTransformer) -> None:
    seen: list[Tensor] = []
    handle = model.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0][0].clone()))
    known = torch.full((1, 3, 16), MASK)
    known[0, 2, :4] = 1  # known, but finer than what is decided first
    options = DecodingOptions(fill_order="coarse_first", steps_per_codebook=(3, 2, 1), guidance_scale=1.0)
    codes = generate_codes(model, [condition(1)], options=options, generators=generators(1), known=known)
    handle.remove()
    levels = [0, 0, 0, 1, 1, 2]
    assert len(seen) == len(levels)
    for level, shown in zip(levels, seen, strict=True):
        assert (shown[:level] < MASK).all()
        assert (shown[level + 1 :] == MASK).all()
        assert (shown[level] == MASK).any()
    assert (codes[0, 2, :4] == 1).all()


def test_progress_and_cancellation_between_steps(model: AudioTransformer) -> None:
    reported: list[tuple[int, int]] = []
    options = DecodingOptions(fill_order="coarse_first", steps_per_codebook=(3, 2, 1))
    run: dict[str, Any] = {"options": options, "progress": lambda done, total: reported.append((done, total))}
    generate_codes(model, [condition(1)], generators=generators(1), **run)
    assert reported == [(done, 6) for done in range(1, 7)]
    reported.clear()
    with pytest.raises(Cancelled):
        generate_codes(model, [condition(1)], generators=generators(1), cancelled=lambda: len(reported) == 2, **run)
    assert reported == [(1, 6), (2, 6)]


def rows_of_the_model(model: AudioTransformer, **arguments: Any) -> list[int]:
    seen: list[int] = []
    handle = model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    generate_codes(model, [condition(1), condition(2)], generators=generators(1, 2), **arguments)
    handle.remove()
    return seen


def test_no_second_branch_without_guidance(model: AudioTransformer) -> None:
    assert rows_of_the_model(model, options=DecodingOptions(steps=2, guidance_scale=1.0)) == [2, 2]
    assert rows_of_the_model(model, options=DecodingOptions(steps=2, guidance_scale=(1.0, 2.0, 1.0))) == [4, 4]


def test_guidance_pulls_towards_the_condition(model: AudioTransformer) -> None:
    """The stronger the guidance, the likelier the codes under the condition and the less so under what is shunned."""
    wanted, shunned = condition(1), condition(2)
    hidden = torch.full((1, 3, 16), MASK)

    def preference(scale: float, negatives: list[Condition | None] | None) -> float:
        options = DecodingOptions(steps=1, guidance_scale=scale, top_k=11)
        codes = generate_codes(
            model, [wanted] * 20, options=options, generators=generators(*range(20)),
            negatives=None if negatives is None else negatives * 20,
        )  # fmt: skip
        chances = [
            model(hidden, side.states[None], side.pad_mask[None]).log_softmax(-1).expand(20, -1, -1, -1)
            for side in (wanted, shunned)
        ]
        gap = chances[0] - chances[1]
        return gap.gather(-1, codes[..., None]).mean().item()

    with torch.no_grad():
        assert preference(6.0, [shunned]) > preference(1.0, [shunned]) + 0.05
        assert preference(6.0, None) != preference(6.0, [shunned])


def test_top_k_and_temperature_per_codebook(model: AudioTransformer) -> None:
    hidden = torch.full((1, 3, 16), MASK)
    one = condition(1)
    with torch.no_grad():
        best = model(hidden, one.states[None], one.pad_mask[None]).argmax(-1)[0]
    options = DecodingOptions(steps=1, guidance_scale=1.0, top_k=(1, 11, 11), temperature=(1.0, 1e-3, 30.0))
    codes = generate_codes(model, [one], options=options, generators=generators(1))[0]
    assert torch.equal(codes[:2], best[:2])
    assert not torch.equal(codes[2], best[2])


def test_sampled_tokens_have_the_given_frequencies() -> None:
    probabilities = torch.tensor([0.0, 0.5, 0.0, 0.2, 0.3, 0.0])
    uniform = torch.linspace(0, 1, 10_001, dtype=torch.float64)[:-1]
    tokens = sample_tokens(probabilities.expand(len(uniform), -1), uniform)
    frequencies = torch.bincount(tokens, minlength=6) / len(uniform)
    torch.testing.assert_close(frequencies, probabilities, atol=1e-3, rtol=0)
    edge = sample_tokens(probabilities[None], torch.tensor([1.0], dtype=torch.float64))
    assert edge.item() == 4  # never a token without probability


def test_the_nearest_entry_errs_least() -> None:
    generator = torch.Generator().manual_seed(5)
    logits, entries = torch.randn(20, 9, generator=generator) * 3, torch.randn(9, 4, generator=generator)
    errors = torch.softmax(logits, 1) @ torch.cdist(entries, entries).square()  # [20, 9], expected for each choice
    assert torch.equal(nearest_to_expected(logits, entries), errors.argmin(1))
    assert not torch.equal(nearest_to_expected(logits, entries), logits.argmax(1))


@pytest.mark.parametrize("order", ["joint", "coarse_first"])
def test_only_drawn_codebooks_follow_the_draws(model: AudioTransformer, order: Any) -> None:
    """One step each: what is not drawn depends on what is known alone."""
    known = torch.full((2, 3, 16), MASK)
    known[:, 0] = 4
    options = DecodingOptions(
        steps=1, fill_order=order, steps_per_codebook=(1, 1, 1), temperature=9.0, drawn_codebooks=2
    )
    both = generate_codes(model, [condition(1)] * 2, options=options, generators=generators(1, 2), known=known)
    assert not torch.equal(both[0, 1], both[1, 1])
    if order == "joint":
        assert torch.equal(both[0, 2], both[1, 2])
    known[:, 1] = 5
    both = generate_codes(model, [condition(1)] * 2, options=options, generators=generators(1, 2), known=known)
    assert torch.equal(both[0], both[1])


def by_the_book(
    model: AudioTransformer, one: Condition, options: DecodingOptions, generator: torch.Generator
) -> Tensor:
    """Reference 4 and 6 word for word, slot by slot: head h at position p answers for slot m = h T + p, which is the code of
    codebook m mod K at time m div K."""
    books, frames = model.timing.codebooks, model.timing.code_frames
    slots, mask, steps = books * frames, model.timing.mask, options.steps
    scale, temperature, noisy, kept = (
        getattr(options, name) for name in ("guidance_scale", "temperature", "mask_temperature", "top_k")
    )
    raw: list[Tensor] = []
    handle = model.heads.register_forward_hook(lambda _, inputs, output: raw.append(output))
    codes = torch.full((books, frames), mask)
    for step in range(steps):
        model(torch.stack([codes, codes]), one.states.expand(2, -1, -1), one.pad_mask.expand(2, -1),
              drop_condition=torch.tensor([False, True]))  # fmt: skip
        toward, away = raw.pop()  # each [head, position, V]
        uniform = torch.rand(slots, generator=generator, dtype=torch.float64)
        noise = torch.rand(slots, generator=generator).clamp_(min=1e-20)
        chosen, confidence = codes.clone(), torch.full((slots,), torch.inf)
        for slot in range(slots):
            head, position = divmod(slot, frames)
            time, book = divmod(slot, books)
            if codes[book, time] != mask:
                continue
            logits = away[head, position] + scale * (toward[head, position] - away[head, position])
            logits[logits < logits.sort(descending=True).values[kept - 1]] = -torch.inf
            chances = (logits / temperature).softmax(0)
            token = int(torch.searchsorted(chances.double().cumsum(0), uniform[slot], right=True))
            chosen[book, time] = token
            gumbel = -torch.log(-torch.log(noise[slot]))
            confidence[slot] = chances[token].log() + noisy * (1 - (step + 1) / steps) * gumbel
        stay = hidden_after(step, steps, slots)
        if step < steps - 1:
            stay = max(1, min(int((codes == mask).sum()) - 1, stay))
        cut = confidence.sort().values[stay]
        hidden = (confidence < cut).view(frames, books).T
        codes = chosen.masked_fill(hidden, mask)
    handle.remove()
    return codes


@pytest.mark.parametrize(
    ("books", "frames", "heads"), [(3, 16, (3, 5)), (5, 7, (6, 1)), (4, 9, (5, 3)), (1, 11, (2, 7)), (3, 25, (7, 6))]
)
@torch.no_grad()
def test_decoding_of_released_models_of_any_size_goes_by_the_book(
    books: int, frames: int, heads: tuple[int, int]
) -> None:
    timing = Timing(
        window=Fraction(frames, 8), frame_rate=Fraction(8), video_token_rate=Fraction(8), code_rate=Fraction(8),
        codebooks=books, codebook_size=11,
    )  # fmt: skip
    config = AudioTransformerConfig(
        dim=24, encoder_layers=1, decoder_layers=1, encoder_heads=heads[0], decoder_heads=heads[1], dim_head=8,
        latent_dim=6, condition_dim=10, visual_positions=30, token_order="legacy",
    )  # fmt: skip
    model = AudioTransformer(config, timing)
    model.initialise(torch.Generator().manual_seed(books * frames))
    model.heads.weight *= 4
    model.eval()
    options = DecodingOptions(steps=6, guidance_scale=3.0, temperature=1.1, mask_temperature=4.0, top_k=7)
    made = generate_codes(model, [condition(1)], options=options, generators=generators(5))
    assert torch.equal(made[0], by_the_book(model, condition(1), options, generators(5)[0]))


def test_options_from_defaults() -> None:
    defaults = DecodingDefaults(steps=20, fill_order="coarse_first", steps_per_codebook=(16, 2, 1, 1), top_k=64)
    options = DecodingOptions.from_defaults(defaults, temperature=0.7, guidance_scale=None)
    assert (options.temperature, options.guidance_scale, options.top_k) == (0.7, defaults.guidance_scale, 64)
    assert options.steps_per_codebook == (16, 2, 1, 1)
    assert DecodingOptions.from_defaults(defaults, steps=40).steps_per_codebook == (32, 4, 2, 2)
    assert DecodingOptions.from_defaults(defaults, steps=5).steps_per_codebook == (4, 1, 1, 1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0}, {"temperature": 0.0}, {"temperature": float("nan")}, {"guidance_scale": float("inf")},
        {"top_k": 0}, {"mask_temperature": -1.0}, {"loudness": 3}, {"steps_per_codebook": (1, 0)},
        {"drawn_codebooks": -1},
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadRequest) as caught:
        DecodingOptions.from_defaults(DecodingDefaults(), **wrong)
    assert caught.value.details["field"] == next(iter(wrong))


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        (DecodingOptions(temperature=(1.0, 1.0)), {}),
        (DecodingOptions(fill_order="coarse_first", steps_per_codebook=(1, 1)), {}),
        (DecodingOptions(), {"known": torch.zeros(1, 2, 16, dtype=torch.int64)}),
        (DecodingOptions(), {"known": torch.full((1, 3, 16), MASK + 1)}),
        (DecodingOptions(), {"generators": generators(1, 2)}),
        (DecodingOptions(), {"negatives": [None, None]}),
    ],
)
def test_what_does_not_fit_the_model_is_refused(
    model: AudioTransformer, options: DecodingOptions, arguments: dict[str, Any]
) -> None:
    with pytest.raises(BadRequest):
        generate_codes(model, [condition(1)], **{"options": options, "generators": generators(1), **arguments})
