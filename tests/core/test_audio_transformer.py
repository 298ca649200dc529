"""The audio transformer at sizes of its own: shapes, orders, padding, null condition, names of official tensors."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import Tensor

from vatt_core.errors import BadModel
from vatt_core.model.audio_transformer import AudioTransformer, order_logits
from vatt_core.model.configuration import AudioTransformerConfig
from vatt_core.model.layers import AlibiBias, sin_cos_positions
from vatt_core.model.official_names import PREFIX, from_official, official_places
from vatt_core.timing import Timing

TIMING = Timing(
    window=Fraction(2), frame_rate=Fraction(4), video_token_rate=Fraction(2), code_rate=Fraction(8), codebooks=3,
    codebook_size=11,
)  # fmt: skip
SIZES = {"dim": 24, "encoder_layers": 2, "decoder_layers": 2, "encoder_heads": 3, "decoder_heads": 5, "dim_head": 8,
         "latent_dim": 6, "condition_dim": 10, "visual_positions": 9}  # fmt: skip


def build(timing: Timing = TIMING, **changes: object) -> AudioTransformer:
    model = AudioTransformer(AudioTransformerConfig(**{**SIZES, "token_order": "aligned", **changes}), timing)
    model.initialise(torch.Generator().manual_seed(3))
    return model.eval()


def inputs(rows: int = 2, slots: int = 7, frames: int = 16, books: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    codes = torch.randint(0, 12, (rows, books, frames), generator=generator)  # 11 is the mask
    states = torch.randn(rows, slots, 10, generator=generator)
    pad_mask = torch.ones(rows, slots)
    pad_mask[-1, 4:6] = 0
    return codes, states, pad_mask


@pytest.mark.parametrize("order", ["aligned", "legacy"])
@pytest.mark.parametrize(("books", "frames", "slots"), [(3, 16, 7), (5, 7, 1), (1, 40, 12)])
def test_any_size_gives_logits(order: str, books: int, frames: int, slots: int) -> None:
    timing = Timing(window=Fraction(2), code_rate=Fraction(8), codebooks=books, codebook_size=11)
    codes, states, pad_mask = inputs(slots=slots, frames=frames, books=books)
    model = build(timing, token_order=order)
    logits = model(codes, states, pad_mask)
    assert logits.shape == (2, books, frames, 11)
    assert logits.isfinite().all()


def test_legacy_order_follows_the_formula() -> None:
    books, frames = 3, 5
    logits = torch.arange(books * frames, dtype=torch.float32).view(1, books, frames, 1)
    ordered = order_logits(logits, "legacy")
    for book in range(books):
        for time in range(frames):
            head, position = divmod(time * books + book, frames)
            assert ordered[0, book, time, 0] == logits[0, head, position, 0]


@pytest.mark.parametrize("order", ["aligned", "legacy"])
def test_some_codebooks_equal_a_part_of_all(order: str) -> None:
    model = build(token_order=order)
    codes, states, pad_mask = inputs()
    logits = model(codes, states, pad_mask)
    torch.testing.assert_close(model(codes, states, pad_mask, codebooks=slice(1, 3)), logits[:, 1:3])
    one_each = model(codes, states, pad_mask, codebooks=torch.tensor([2, 0]))
    torch.testing.assert_close(one_each, torch.stack([logits[0, 2:3], logits[1, 0:1]]))


def test_padded_slots_have_no_influence() -> None:
    model = build(video_to_audio=True)
    codes, states, pad_mask = inputs()
    logits = model(codes, states, pad_mask)
    other = states.clone()
    other[-1, 4:6] += 10.0
    torch.testing.assert_close(model(codes, other, pad_mask), logits)


def test_dropped_condition_is_blind_and_every_parameter_still_has_a_gradient() -> None:
    model = build(video_to_audio=True, video_place_rank=5)
    codes, states, pad_mask = inputs()
    drop = torch.tensor([True, False])
    logits = model(codes, states, pad_mask, drop_condition=drop)
    changed = model(codes, states * 2 + 1, pad_mask, drop_condition=drop)
    torch.testing.assert_close(changed[0], logits[0])
    assert not torch.allclose(changed[1], logits[1], atol=1e-3)
    torch.testing.assert_close(logits[1], model(codes, states, pad_mask)[1], atol=1e-5, rtol=1e-5)
    model(codes, states, pad_mask, drop_condition=torch.tensor([True, True])).sum().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (name != "codebooks"), name


@pytest.mark.parametrize("rank", [0, 5])
def test_video_reaches_the_code_frames_of_its_instant_only(rank: int) -> None:
    model = build(video_to_audio=True, video_place_rank=rank, encoder_layers=0, decoder_layers=0)
    codes, states, pad_mask = inputs(rows=1, frames=20)
    pad_mask[:] = 1
    logits = model(codes, states, pad_mask)
    other = states.clone()
    other[0, 1] += 1.0  # the second video token: code frames 4 to 7
    changed = (model(codes, other, pad_mask) - logits).abs().amax(dim=(0, 1, 3)) > 1e-6
    assert changed.tolist() == [4 <= frame < 8 for frame in range(20)]
    other = states.clone()
    other[0, 3] += 1.0  # the last token holds past the window
    changed = (model(codes, other, pad_mask) - logits).abs().amax(dim=(0, 1, 3)) > 1e-6
    assert changed.tolist() == [frame >= 12 for frame in range(20)]


def test_the_code_frames_of_a_video_token_are_told_apart_by_their_place() -> None:
    model = build(video_to_audio=True, video_place_rank=5, encoder_layers=0, decoder_layers=0)
    codes, states, pad_mask = inputs(rows=1, frames=20)
    codes[:] = 0
    states[0, 1] = states[0, 0]  # two tokens that say the same: code frames 0 to 3 and 4 to 7
    with torch.no_grad():
        model.positions.zero_()
    logits = model(codes, states, pad_mask)
    torch.testing.assert_close(logits[:, :, 0:4], logits[:, :, 4:8])
    assert (logits[:, :, 0] - logits[:, :, 1]).abs().max() > 1e-3


def test_positions_beyond_the_table_continue_it() -> None:
    model = build()
    rows = model.positions.shape[0]
    with torch.no_grad():
        model.positions += 0.5  # stands for a table that came with a checkpoint
    seen: list[Tensor] = []
    model.encoder.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    codes, states, pad_mask = inputs(rows=1, slots=8, frames=rows)
    model(codes, states, pad_mask)
    last = seen[0][0, -1] - model.latent_projection(model.embed_codes(codes))[0, -1] - model.audio_modality
    torch.testing.assert_close(last, sin_cos_positions(rows + 8, 24)[-1], atol=1e-5, rtol=1e-5)


def test_initial_weights_shrink_with_depth_and_follow_the_seed() -> None:
    one, two = build(dim=192, dim_head=64), build(dim=192, dim_head=64)
    for (name, ours), theirs in zip(one.state_dict().items(), two.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    for number, block in enumerate(one.encoder.blocks):
        attention = block.attention.query_key_value.weight
        contract = block.audio_feed_forward.contract.weight
        for weight, sub_layer in ((attention, 2 * number), (contract, 2 * number + 1)):
            std = 1 / weight.shape[1] ** 0.5 / (2 * (sub_layer + 1)) ** 0.5
            assert weight.std().item() == pytest.approx(std, rel=0.05)
            assert weight.abs().max() <= 3 * std + 1e-6


def official(model: AudioTransformer) -> dict[str, Tensor]:
    """The model's tensors under official names."""
    ours = model.state_dict()
    return {
        PREFIX + key: ours[place.name].chunk(place.parts)[place.part].clone()
        for key, place in official_places(model.config, model.timing).items()
    }


def test_official_names_there_and_back() -> None:
    model = build()
    tensors = official(model)
    loaded = from_official(tensors, model.config, TIMING, codebooks=list(model.codebooks))
    assert loaded.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(loaded[name], value), name
    trained = {**tensors, PREFIX + "quantizer": model.codebooks + 1}
    assert torch.equal(
        from_official(trained, model.config, TIMING, codebooks=model.codebooks)["codebooks"], model.codebooks + 1
    )
    numbered = {**tensors, **{f"{PREFIX}quantizer.{book}": model.codebooks[book] - 1 for book in range(3)}}
    assert torch.equal(from_official(numbered, model.config, TIMING)["codebooks"], model.codebooks - 1)


def test_the_official_size_has_330_tensors() -> None:
    assert len(official_places(AudioTransformerConfig(), Timing())) == 330


@pytest.mark.parametrize("damage", ["norm copy", "missing", "unknown", "shape", "no codebooks", "codebook shape"])
def test_damaged_checkpoints_are_refused_by_key(damage: str) -> None:
    model = build()
    tensors, codebooks = official(model), model.codebooks
    key = PREFIX + "encoder.attn_layers.layers.2.0.0.A.weight"
    if damage == "norm copy":
        tensors[key] = tensors[key] + 1e-3
    elif damage == "missing":
        del tensors[key]
    elif damage == "unknown":
        key = PREFIX + "encoder.attn_layers.layers.9.1.to_q.weight"
        tensors[key] = torch.zeros(3)
    elif damage == "shape":
        tensors[key] = torch.zeros(7)
    elif damage == "no codebooks":
        key = PREFIX + "quantizer"
    else:
        key, codebooks = PREFIX + "quantizer", torch.zeros(2, 5, 6)
        tensors[key] = codebooks
    with pytest.raises(BadModel) as caught:
        from_official(tensors, model.config, TIMING, codebooks=None if damage == "no codebooks" else codebooks)
    assert caught.value.details["key"] == key
    assert key in str(caught.value)


def test_bfloat16_training_agrees_with_float32() -> None:
    model = build(dim=32, dim_head=16)
    codes, states, pad_mask = inputs()
    gradients = []
    for enabled in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            logits = model(codes, states, pad_mask)
        logits.float().square().mean().backward()
        weight = model.encoder.blocks[0].attention.query_key_value.weight
        assert weight.grad is not None
        gradients.append(weight.grad.flatten().clone())
    assert torch.cosine_similarity(*gradients, dim=0) > 0.99


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("heads", "books", "frames", "slots"), [((3, 5), 3, 16, 7), ((6, 7), 5, 23, 1), ((1, 2), 1, 40, 12)]
)
def test_without_gradients_the_numbers_are_the_same(
    kind: torch.dtype, heads: tuple[int, int], books: int, frames: int, slots: int
) -> None:
    timing = Timing(window=Fraction(2), code_rate=Fraction(8), codebooks=books, codebook_size=11)
    model = build(timing, encoder_heads=heads[0], decoder_heads=heads[1]).to(kind)
    codes, states, pad_mask = inputs(slots=slots, frames=frames, books=books)
    tolerance = 1e-5 if kind == torch.float32 else 0.05
    for mask in (pad_mask, torch.ones_like(pad_mask)):
        wanted = model(codes, states, mask)
        with torch.no_grad():
            torch.testing.assert_close(model(codes, states, mask), wanted.detach(), atol=tolerance, rtol=tolerance)


@torch.no_grad()
def test_far_keys_count_as_far_as_they_can_be_told() -> None:
    """Over many hundred slots the weights of far keys leave the range of float32; the sum of the others is what it was."""
    attention = build(encoder_heads=8).encoder.blocks[0].attention
    x = torch.randn(1, 900, 24, generator=torch.Generator().manual_seed(1))
    bias = AlibiBias(8)(900, device=torch.device("cpu"), dtype=torch.float32)[None]
    query, key, value = attention.query_key_value(x).view(900, 3, 8, 8).double().permute(1, 2, 0, 3)
    scores = query @ key.transpose(1, 2) / 8**0.5 + bias[0].double()
    seen = (scores.softmax(-1) @ value).transpose(0, 1).flatten(1)
    wanted = (seen @ attention.output.weight.double().T).float()
    torch.testing.assert_close(attention(x, bias, None)[0], wanted, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_nothing_is_computed_that_nobody_reads_and_the_bias_is_built_once() -> None:
    model = build()
    shapes: dict[str, list[int]] = {}
    for name in ("decoder.blocks.0.feed_forward", "decoder.blocks.1.feed_forward", "decoder.norm"):
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, given, name=name: shapes.__setitem__(name, list(given[0].shape))
        )
    codes, states, pad_mask = inputs(slots=7, frames=16)
    assert model(codes, states, pad_mask, codebooks=slice(1, 2)).shape == (2, 1, 16, 11)
    # The last layer looks at every slot, and answers for those of codes alone.
    assert shapes == {
        "decoder.blocks.0.feed_forward": [2, 23, 24],
        "decoder.blocks.1.feed_forward": [2, 16, 24],
        "decoder.norm": [2, 16, 24],
    }
    built = [bias._built for bias in (model.encoder_bias, model.decoder_bias)]
    model(codes[:, :, :9], states, torch.ones_like(pad_mask))
    model(codes, states, pad_mask)
    assert all(
        bias._built is before for bias, before in zip((model.encoder_bias, model.decoder_bias), built, strict=True)
    )
