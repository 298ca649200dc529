"""Precision and memory: what is planned, what is refused before anything is read, what swapping leaves the same."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping

import pytest
import torch

from vatt_core.errors import BadRequest, OutOfMemory
from vatt_core.model import folder as folders
from vatt_core.model.folder import count_parameters, load_model
from vatt_core.model.plan import LoadOptions, MemoryPlan, check_fits, chosen_device, device_named, plan_memory
from vatt_core.model.residence import Residence
from vatt_core.weights import find_model

GEMMA = {"vision": 304_000_000, "converter": 2_510_000_000, "audio_transformer": 414_000_000, "codec": 57_000_000}
LLAMA = {"vision": 304_000_000, "converter": 6_750_000_000, "audio_transformer": 416_000_000, "codec": 57_000_000}
GEMMA_LINEAR, LLAMA_LINEAR = 1_980_000_000, 6_476_000_000
CUDA, CPU = torch.device("cuda"), torch.device("cpu")
GB = 1_000_000_000


def plan(
    sizes: Mapping[str, int], linear: int, options: LoadOptions, *, device: torch.device, available: int
) -> MemoryPlan:
    """A plan with half a gigabyte for each stage beside its weights."""
    return plan_memory(
        sizes, linear, options, device=device, available=available,
        working=lambda kinds, bits: dict.fromkeys(kinds, GB // 2),
    )  # fmt: skip


def test_small_models_are_exact_everywhere() -> None:
    nano = {"vision": 10**6, "converter": 10**6, "audio_transformer": 10**6, "codec": 10**6}
    for device in (CUDA, CPU):
        wide = plan(nano, 0, LoadOptions(), device=device, available=GB)
        assert {part.dtype for part in wide.parts} == {torch.float32}
        assert not wide.swapped and not wide.narrowed


def test_defaults_follow_the_device() -> None:
    on_gpu = plan(GEMMA, GEMMA_LINEAR, LoadOptions(), device=CUDA, available=24 * GB)
    assert on_gpu.dtype("converter") == on_gpu.dtype("vision") == torch.bfloat16
    assert on_gpu.dtype("codec") == torch.float32 and not on_gpu.swapped
    roomy = plan(GEMMA, GEMMA_LINEAR, LoadOptions(), device=CPU, available=64 * GB)
    assert not roomy.narrowed
    tight = plan(GEMMA, GEMMA_LINEAR, LoadOptions(), device=CPU, available=16 * GB)
    assert tight.dtype("converter") == torch.bfloat16
    assert tight.dtype("vision") == torch.float32  # convolutions of the CPU


def test_what_does_not_fit_is_refused_with_its_sizes() -> None:
    small = plan(LLAMA, LLAMA_LINEAR, LoadOptions(), device=CUDA, available=12 * GB)
    with pytest.raises(OutOfMemory) as caught:
        check_fits(small, "llama")
    assert caught.value.details == {"needed": small.needed, "available": 12 * GB, "part": "converter"}
    assert all(name in caught.value.message for name in ("llama", "converter", "llm_bits"))
    check_fits(plan(LLAMA, LLAMA_LINEAR, LoadOptions(llm_bits=4), device=CUDA, available=12 * GB), "llama")


def test_a_choice_is_kept() -> None:
    options = LoadOptions(precision="float16", memory="swap")
    chosen = plan(GEMMA, GEMMA_LINEAR, options, device=CUDA, available=100 * GB)
    assert chosen.swapped and chosen.dtype("audio_transformer") == torch.float16
    assert chosen.needed == chosen.swap < chosen.keep
    assert not plan(GEMMA, GEMMA_LINEAR, options, device=CPU, available=100 * GB).swapped


@pytest.mark.parametrize("wrong", [{"precision": "half"}, {"llm_bits": 3}, {"memory": "some"}, {"codec": "other"}])
def test_a_choice_that_does_not_exist(wrong: dict[str, object]) -> None:
    with pytest.raises(BadRequest):
        LoadOptions(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("library", "options"),
    [("bitsandbytes", LoadOptions(llm_bits=4)), ("audiocraft", LoadOptions(codec="audiocraft"))],
)
def test_a_library_that_is_not_installed_is_named(library: str, options: LoadOptions) -> None:
    if importlib.util.find_spec(library):
        pytest.skip(f"{library} is installed")
    with pytest.raises(BadRequest, match=library):
        load_model(find_model("nano"), options=options)


def test_a_model_that_does_not_fit_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "available_memory", lambda device: 1000)
    monkeypatch.setattr(folders, "load_part", None)
    with pytest.raises(OutOfMemory) as caught:
        load_model(find_model("nano"))
    assert caught.value.details["available"] == 1000


@pytest.mark.parametrize("name", ["cdua", "meta", "cuda:99", ""])
def test_a_device_that_is_none_or_not_there(name: str) -> None:
    with pytest.raises(BadRequest, match="choose auto"):
        load_model(find_model("nano"), device=name)


def test_a_device_is_chosen_by_name() -> None:
    assert chosen_device("cpu") == CPU
    assert chosen_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert device_named("cuda:99") == torch.device("cuda:99")  # it can be planned for


def test_sizes_are_read_from_the_head_of_a_file() -> None:
    model = load_model(find_model("nano"))
    for name in ("converter", "audio_transformer"):
        whole, _ = count_parameters(model.folder / f"{name}.safetensors")
        stored = {value.data_ptr(): value.numel() for value in getattr(model, name).state_dict().values()}
        assert whole == sum(stored.values())
    from vatt_core.model.quantised import quantisable

    layers = quantisable(model.converter)
    assert count_parameters(model.folder / "converter.safetensors")[1] == sum(
        layer.weight.numel() for layer in layers.values()
    )
    assert all("lora" not in name and "lm_head" not in name for name in layers)


def test_swapped_parts_visit_the_device_one_at_a_time() -> None:
    parts = {name: torch.nn.Linear(2, 2) for name in ("a", "b", "c")}
    moves: list[tuple[str, str]] = []
    for name, part in parts.items():
        part.to = lambda where, name=name: moves.append((name, str(where)))  # type: ignore[method-assign,assignment,misc]
    residence = Residence(parts, torch.device("meta"), swapped=True)
    with residence.using("a"):
        with residence.using("b"):
            pass
        with residence.using("a"):
            pass
    with residence.using("b"):
        pass
    there = [("a", "meta"), ("b", "meta"), ("b", "cpu"), ("a", "cpu"), ("b", "meta")]
    assert moves == there  # b joins a that is in use, leaves when only a is, and drives a away at last
    moves.clear()
    with Residence(parts, torch.device("meta"), swapped=False).using("c"):
        pass
    assert moves == []


def test_half_the_numbers_take_half_the_memory() -> None:
    model = load_model(find_model("nano"), options=LoadOptions(precision="bfloat16"))
    assert {value.dtype for value in model.converter.parameters()} == {torch.bfloat16}
    assert {value.dtype for value in model.audio_transformer.parameters()} == {torch.bfloat16}
    for exact in (model.vision, model.codec):  # convolutions of the CPU
        assert {value.dtype for value in exact.parameters()} == {torch.float32}
    states = torch.randn(1, 40, model.config.audio.condition_dim)
    codes = torch.full((1, model.config.timing.codebooks, 50), model.config.timing.mask)
    narrow = model.audio_transformer(codes, states, torch.ones(1, 40)).float()
    wide = load_model(find_model("nano")).audio_transformer(codes, states, torch.ones(1, 40))
    assert torch.nn.functional.cosine_similarity(narrow.flatten(), wide.flatten(), dim=0) > 0.99
