"""The audio transformer, its decoding and its constants against numbers recorded from the official code."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

from vatt_core.model.audio_transformer import AudioTransformer, order_logits
from vatt_core.model.choosing import DecodingOptions
from vatt_core.model.configuration import AudioTransformerConfig
from vatt_core.model.decoding import Condition, generate_codes, hidden_after, schedule
from vatt_core.model.layers import AlibiBias, alibi_slopes, sin_cos_positions
from vatt_core.model.masking import TruncatedNormalRatio, masked_loss
from vatt_core.model.official_names import PREFIX, from_official, official_places
from vatt_core.timing import Timing
from vatt_core.training.schedule import official_factor

pytestmark = pytest.mark.recorded

Recording = Callable[[str], tuple[dict[str, Tensor], dict[str, Any]]]
FORWARD = ["audio_forward_even", "audio_forward_odd"]
GENERATE = ["audio_generate_full", "audio_generate_small"]


def build(tensors: dict[str, Tensor], sizes: dict[str, Any]) -> AudioTransformer:
    """The model of a case, loaded through the mapping of official names."""
    config = AudioTransformerConfig(
        dim=sizes["dim"],
        encoder_layers=sizes["num_layers"],
        decoder_layers=sizes["dec_num_layers"],
        encoder_heads=sizes["num_heads"],
        decoder_heads=sizes["dec_num_heads"],
        dim_head=sizes["dim_head"],
        latent_dim=sizes["latent_dim"],
        condition_dim=sizes["encoder_dim"],
        visual_positions=sizes["visual_seq_len"],
        token_order="legacy",
    )
    timing = Timing(
        window=Fraction(sizes["audio_seq_len"]),
        code_rate=Fraction(1),
        codebooks=sizes["n_codebooks"],
        codebook_size=sizes["num_tokens"],
    )
    model = AudioTransformer(config, timing)
    official = {key.removeprefix("state."): value for key, value in tensors.items() if key.startswith("state.")}
    model.load_state_dict(from_official(official, config, timing, codebooks=tensors["codebooks"]))
    return model.eval()


def record_inputs(module: torch.nn.Module, into: list[Tensor]) -> None:
    module.register_forward_pre_hook(lambda _, arguments: into.append(arguments[0].detach()))


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(ours.float(), theirs.float(), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("name", FORWARD)
@pytest.mark.parametrize("variant", ["nopad", "pad", "pad_conddrop"])
def test_forward(recording: Recording, name: str, variant: str) -> None:
    tensors, description = recording(name)
    model = build(tensors, description["config"])
    codes, states = tensors["in.codes"], tensors["in.cond_hidden"]
    pad_mask = tensors["in.pad_mask_all_ones" if variant == "nopad" else "in.pad_mask"]
    drop = torch.full((len(codes),), variant == "pad_conddrop")
    hidden = tensors["in.mask_uniform"] < description["mask_ratio"]
    masked = codes.masked_fill(hidden, model.timing.mask)
    targets = codes.masked_fill(~hidden, -1)
    expected = {key.removeprefix(f"out.{variant}."): value for key, value in tensors.items()}
    batch, books, frames = codes.shape

    # What the model computes on the way.
    condition, audio = model.embed(masked, states, drop_condition=drop)
    streams: dict[str, list[Tensor]] = {"encoder": [], "decoder": []}
    record_inputs(model.encoder.norm, streams["encoder"])
    for block in model.decoder.blocks:
        record_inputs(block.attention_norm, streams["decoder"])
        record_inputs(block.feed_forward_norm, streams["decoder"])
    record_inputs(model.decoder.norm, streams["decoder"])
    x = torch.cat([condition, audio], dim=1)
    encoder_bias, decoder_bias, keep = model.attention_inputs(pad_mask, frames, x)
    encoded = model.encoder(x, encoder_bias, keep, split=states.shape[1])
    decoded = model.decoder(encoded, decoder_bias, keep)
    close(encoded, expected["encoder.output"])
    close(decoded, expected["decoder.output"])
    for stack, seen in streams.items():
        for number, stream in enumerate(seen):
            if f"{stack}.residual_stream.{number}" in expected:
                close(stream, expected[f"{stack}.residual_stream.{number}"])
    if "codebook_sum" in expected:
        close(model.embed_codes(masked), expected["codebook_sum"])
        close(model.latent_projection(model.embed_codes(masked)), expected["token_embed"])
        close(model.condition_projection(states), expected["img_linear_out"])
        assert torch.equal(masked, expected["masked_codes"])
        by_time = targets.transpose(1, 2).flatten(1)  # slots in the order (time, codebook)
        assert torch.equal(by_time, expected["target"])

    # The public way; recorded logits are [B, V, head * T + position].
    logits = model(masked, states, pad_mask, drop_condition=drop)
    theirs = expected["logits"].transpose(1, 2).reshape(batch, books, frames, -1)
    close(logits, order_logits(theirs, "legacy"))
    loss = masked_loss(logits, targets)
    close(loss, expected["loss"].squeeze())

    # Gradients of the recorded parameters.
    loss.backward()
    ours = dict(model.named_parameters())
    places = official_places(model.config, model.timing)
    for key, value in expected.items():
        if key.startswith("grad."):
            place = places[key.removeprefix("grad.").removeprefix(PREFIX)]
            gradient = ours[place.name].grad
            assert gradient is not None, key
            close(gradient.chunk(place.parts)[place.part].reshape(value.shape), value)


class ReplayedDraws:
    """Hands out recorded uniform numbers, step by step."""

    def __init__(self, tokens: Tensor, noise: Tensor) -> None:
        self.rows = iter(zip(tokens.double(), noise, strict=True))

    def step(self, slots: int) -> tuple[Tensor, Tensor]:
        tokens, noise = next(self.rows)
        assert len(tokens) == slots
        return tokens, noise


@pytest.mark.parametrize("name", GENERATE)
def test_generation_replays(recording: Recording, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, description = recording(name)
    model = build(tensors, description["config"])
    sampling = description["sampling"]
    options = DecodingOptions(
        steps=sampling["sampling_steps"],
        guidance_scale=sampling["cfg_coef"],
        temperature=sampling["sampling_temperature"],
        mask_temperature=sampling["mask_temperature"],
        top_k=sampling["top_k"],
    )
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []

    def watch(_: torch.nn.Module, arguments: tuple[Tensor, ...], logits: Tensor) -> None:
        toward, away = logits.chunk(2)
        guided = away + sampling["cfg_coef"] * (toward - away)
        inputs.append(arguments[0].chunk(2)[0].clone())
        outputs.append(guided.transpose(1, 2).flatten(1, 2)[0])  # [slots, V]

    model.register_forward_hook(watch)
    codes = generate_codes(
        model,
        [Condition(tensors["in.cond_hidden"][0], tensors["in.pad_mask"][0])],
        options=options,
        generators=[ReplayedDraws(tensors["rec.multinomial_uniform"], tensors["rec.gumbel_uniform"])],
    )
    assert torch.equal(torch.cat(inputs), tensors["step.masked_codes_in"].long())
    assert torch.equal(codes, tensors["out.codes"].long())
    slots = model.timing.codebooks * model.timing.code_frames
    stays = [hidden_after(step, options.steps, slots) for step in range(options.steps)]
    masked_after = [int((codes == model.timing.mask).sum()) for codes in inputs[1:]] + [0]
    assert masked_after == tensors["step.num_to_mask"].tolist() == stays
    logits = torch.stack(outputs)  # [steps, slots, V]
    tolerance = description["tolerance"]["logits_atol"]
    if "step.cfg_logits" in tensors:
        close(logits, tensors["step.cfg_logits"], tolerance)
    if "in.logit_slots" in tensors:
        close(logits[:, tensors["in.logit_slots"]], tensors["step.cfg_logits_slots"], tolerance)
        sums = logits.double().abs().sum(dim=(1, 2))
        torch.testing.assert_close(sums, tensors["step.cfg_logits_abs_sum"], rtol=1e-5, atol=0.1)


def test_constants(recording: Recording) -> None:
    _, description = recording("misc")
    for run in description["lr"].values():
        for step, factor, rate in run["step_factor_lr"]:
            ours = official_factor(
                step,
                warm_up_steps=run["warm_up_steps"],
                total_steps=run["cycle_length"],
                start=run["f_start"],
                highest=run["f_max"],
                lowest=run["f_min"],
            )
            assert ours == pytest.approx(factor, rel=1e-9, abs=1e-15)
            assert ours * run["base_lr"] == pytest.approx(rate, rel=1e-9, abs=1e-15)
    for case in description["mask_ratio"].values():
        ratio = TruncatedNormalRatio(mean=case["mu"], std=case["std"], low=case["min"], high=case["max"])
        shares, quantiles = torch.tensor(case["quantiles"], dtype=torch.float64).T
        torch.testing.assert_close(ratio.quantile(shares), quantiles, atol=1e-9, rtol=1e-9)
        ratios, shares = torch.tensor(case["cdf"], dtype=torch.float64).T
        torch.testing.assert_close(ratio.cdf(ratios), shares, atol=1e-9, rtol=1e-9)
    for steps, gammas in description["gamma"].items():
        assert [schedule(step, int(steps)) for step in range(int(steps))] == pytest.approx(gammas, abs=1e-6)
    for key in [key for key in description if key.startswith("floor_gamma_times_")]:
        slots = int(key.rsplit("_", 1)[1])
        for steps, counts in description[key].items():
            assert [hidden_after(step, int(steps), slots) for step in range(int(steps))] == counts


def test_positions_and_biases(recording: Recording) -> None:
    tensors, description = recording("misc")
    tolerance = description["tolerance"]["sincos_atol"]
    built: dict[int, AlibiBias] = {}
    for key, value in tensors.items():
        part = key.split(".")
        if key.startswith("alibi.slopes."):
            close(torch.tensor(alibi_slopes(int(part[2][1:]))), value, 1e-6)
        elif key.startswith("alibi.bias."):
            bias = built.setdefault(int(part[2][1:]), AlibiBias(int(part[2][1:])))
            length = int(part[3][1:])
            close(bias(length, device=torch.device("cpu"), dtype=torch.float32), value, 1e-6)
        elif part[0] == "sincos":
            table = sin_cos_positions(int(part[2][1:]), int(part[1][1:]))
            if part[3:] == ["rows"]:
                table = table[tensors[f"{key}_index"]]
            if part[3:] != ["rows_index"]:
                close(table, value, tolerance)


def test_legacy_order(recording: Recording) -> None:
    tensors, _ = recording("misc")
    head, position = tensors["slot.head"].long(), tensors["slot.position"].long()
    book, time = tensors["slot.codebook"].long(), tensors["slot.time"].long()
    heads, positions = int(head.max()) + 1, int(position.max()) + 1
    numbered = torch.arange(heads * positions, dtype=torch.float32).view(1, heads, positions, 1)
    ordered = order_logits(numbered, "legacy")
    assert torch.equal(ordered[0, book, time, 0], numbered[0, head, position, 0])
