"""The image tower: what goes in as bytes comes out as one feature vector per frame."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from PIL import Image

from vatt_core.errors import BadModel
from vatt_core.model.configuration import ModelConfig, View, VisionConfig
from vatt_core.model.vision import VisionTower, build_tower

SMALL = VisionConfig(
    name="small",
    open_clip_model={
        "embed_dim": 12,
        "vision_cfg": {"layers": 1, "width": 16, "head_width": 8, "patch_size": 16},
    },
    image_size=32,
    feature_dim=12,
)


@pytest.fixture(scope="module")
def tower() -> VisionTower:
    torch.manual_seed(0)
    return VisionTower(SMALL).eval()


def frames(count: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(height * 1000 + width)
    coarse = torch.rand(count, 3, 9, 9, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    return (smooth * 255).byte().permute(0, 2, 3, 1).contiguous()


@pytest.mark.parametrize("size", [(32, 32), (32, 50), (41, 32)])
def test_frames_that_need_no_resizing_keep_their_bytes(tower: VisionTower, size: tuple[int, int]) -> None:
    clip = frames(2, *size)
    pixels = tower.preprocess(clip)
    assert pixels.shape == (2, 3, 32, 32)
    mean, std = torch.tensor(SMALL.mean).view(3, 1, 1), torch.tensor(SMALL.std).view(3, 1, 1)
    top, left = round((size[0] - 32) / 2), round((size[1] - 32) / 2)
    shown = clip[:, top : top + 32, left : left + 32].permute(0, 3, 1, 2).float() / 255
    torch.testing.assert_close(pixels * std + mean, shown, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(90, 120), (200, 75), (20, 31), (31, 33)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_resizing_looks_like_the_released_preprocessing(size: tuple[int, int], interpolation: str) -> None:
    from torchvision import transforms  # after vatt_core, which makes it importable beside a CPU-only torch

    tower = VisionTower(dataclasses.replace(SMALL, interpolation=interpolation, mean=(0, 0, 0), std=(1, 1, 1)))
    clip = frames(1, *size)
    released = transforms.Compose(
        [
            transforms.Resize(32, interpolation=transforms.InterpolationMode(interpolation)),
            transforms.CenterCrop(32),
            transforms.PILToTensor(),
        ]
    )
    wanted = released(Image.fromarray(clip[0].numpy())).float()
    assert (tower.preprocess(clip)[0] * 255 - wanted).abs().max() <= 1.01  # one level


def test_features_do_not_depend_on_the_batch(tower: VisionTower) -> None:
    clip = frames(7, 32, 32)
    whole = tower.encode(clip, batch_size=7)
    assert whole.shape == (7, SMALL.feature_dim)
    torch.testing.assert_close(tower.encode(clip, batch_size=2), whole)
    torch.testing.assert_close(tower(tower.preprocess(clip)).detach(), whole)
    assert tower.encode(clip[:0]).shape == (0, SMALL.feature_dim)


def test_normalised_features_have_length_one() -> None:
    tower = VisionTower(dataclasses.replace(SMALL, normalise=True))
    torch.testing.assert_close(tower.encode(frames(3, 32, 32)).norm(dim=-1), torch.ones(3))


def test_features_are_the_mean_of_what_each_view_shows(tower: VisionTower) -> None:
    clip = frames(3, 32, 32)
    views = (View(), View(mirrored=True), View(down=2, right=-3), View(mirrored=True, down=-1))
    several = VisionTower(dataclasses.replace(SMALL, views=views)).eval()
    several.load_state_dict(tower.state_dict())
    # By hand, on the bytes: dimension 1 goes down, 2 to the right.
    shown = [clip, clip.flip(2), clip.roll((2, -3), (1, 2)), clip.flip(2).roll(-1, 1)]
    wanted = torch.stack([tower.encode(one) for one in shown])
    torch.testing.assert_close(several.encode(clip, batch_size=2), wanted.mean(0))
    assert (wanted - wanted[0]).abs().amax((1, 2))[1:].min() > 1e-3


def test_views_stand_in_the_configuration_and_one_without_them_looks_once(tmp_path: Path) -> None:
    config = ModelConfig("small", vision=dataclasses.replace(SMALL, views=(View(), View(True, down=2, right=-3))))
    config.save(tmp_path / "config.json")
    assert ModelConfig.load(tmp_path / "config.json") == config
    values = config.to_dict()
    del values["vision"]["views"]
    assert ModelConfig.from_dict(values).vision == SMALL
    for wrong in ([], [{"mirrored": True, "up": 2}]):
        values["vision"]["views"] = wrong
        with pytest.raises(BadModel, match="configuration"):
            ModelConfig.from_dict(values)


def test_gradients_reach_every_parameter(tower: VisionTower) -> None:
    tower(tower.preprocess(frames(2, 32, 32))).square().sum().backward()
    assert all(parameter.grad is not None for parameter in tower.parameters())


def test_only_the_picture_half_is_kept(tower: VisionTower) -> None:
    assert all(name.startswith("visual.") for name in tower.state_dict())


@pytest.mark.parametrize(
    "wrong",
    [
        VisionConfig(name="no such tower"),
        dataclasses.replace(SMALL, feature_dim=13),
        dataclasses.replace(SMALL, open_clip_model={"embed_dim": 12}),
        dataclasses.replace(SMALL, open_clip_model={"embed_dim": 12, "vision_cfg": {"width": 16, "no_such": 1}}),
    ],
)
def test_a_wrong_configuration_is_refused(wrong: VisionConfig) -> None:
    with pytest.raises(BadModel):
        VisionTower(wrong)


@pytest.mark.parametrize("wrong", [torch.zeros(2, 32, 32, 3), torch.zeros(32, 32, 3, dtype=torch.uint8)])
def test_frames_of_another_form_are_refused(tower: VisionTower, wrong: torch.Tensor) -> None:
    with pytest.raises(ValueError):
        tower.preprocess(wrong)


def test_the_official_tower_is_built_by_its_name() -> None:
    config = VisionConfig()
    with torch.device("meta"):  # shapes alone: 300 million weights would take seconds and a gigabyte
        tower = build_tower(config)
        features = tower(torch.zeros(2, 3, config.image_size, config.image_size))
    assert config.name == "EVA02-L-14-336" and config.open_clip_model is None
    assert features.shape == (2, config.feature_dim) == (2, 768)
    assert sum(weight.numel() for weight in tower.parameters()) > 300_000_000
