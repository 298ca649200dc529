"""Training masks: distributions, what is hidden and asked, and the loss."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vatt_core.model.masking import (
    IGNORED,
    CosineRatio,
    OftenHigh,
    RatioDistribution,
    TruncatedNormalRatio,
    mask_coarse_first,
    mask_joint,
    masked_loss,
)

MASK = 9


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_codes(rows: int = 64, books: int = 3, frames: int = 50) -> Tensor:
    return torch.randint(0, MASK, (rows, books, frames), generator=generator(1))


def test_truncated_normal_quantile_inverts_the_cdf() -> None:
    ratio = TruncatedNormalRatio(mean=0.6, std=0.2, low=0.3, high=0.95)
    shares = torch.linspace(0, 1, 101, dtype=torch.float64)
    values = ratio.quantile(shares)
    assert values[0] == pytest.approx(0.3)
    assert values[-1] == pytest.approx(0.95)
    assert (values.diff() > 0).all()
    torch.testing.assert_close(ratio.cdf(values), shares, atol=1e-9, rtol=1e-9)


def test_often_high_puts_its_share_at_the_top() -> None:
    values = OftenHigh(CosineRatio(), share=0.4, low=0.9).quantile(torch.linspace(0, 1, 10_001))
    assert ((values >= 0) & (values <= 1)).all()
    # 40 % by itself, and of the rest those that the cosine puts there.
    above = 0.4 + 0.6 * (1 - 2 / torch.pi * torch.arcsin(torch.tensor(0.9)))
    assert (values >= 0.9).double().mean().item() == pytest.approx(above.item(), abs=1e-3)


@pytest.mark.parametrize("ratio", [TruncatedNormalRatio(), CosineRatio()])
def test_joint_hides_and_asks_for_the_same_codes(ratio: RatioDistribution) -> None:
    codes = some_codes(rows=400)
    question = mask_joint(codes, mask_token=MASK, ratio=ratio, generator=generator())
    hidden = question.codes == MASK
    assert question.codebooks is None
    assert torch.equal(hidden, question.targets != IGNORED)
    assert torch.equal(question.targets[hidden], codes[hidden])
    assert torch.equal(question.codes[~hidden], codes[~hidden])
    mean = ratio.quantile(torch.linspace(0, 1, 10_001)).mean().item()
    assert hidden.double().mean().item() == pytest.approx(mean, abs=0.03)
    per_row = hidden.double().mean(dim=(1, 2))
    assert per_row.std() > 0.05  # every row has a ratio of its own


def test_coarse_first_shows_coarser_codebooks_and_hides_finer_ones() -> None:
    codes = some_codes()
    question = mask_coarse_first(codes, mask_token=MASK, ratio=TruncatedNormalRatio(), generator=generator())
    assert question.codebooks is not None
    assert set(question.codebooks.tolist()) == {0, 1, 2}
    assert question.targets.shape == (64, 1, 50)
    for row, level in enumerate(question.codebooks.tolist()):
        assert torch.equal(question.codes[row, :level], codes[row, :level])
        assert (question.codes[row, level + 1 :] == MASK).all()
        hidden = question.codes[row, level] == MASK
        assert torch.equal(question.targets[row, 0] != IGNORED, hidden)
        assert torch.equal(question.targets[row, 0][hidden], codes[row, level][hidden])


def test_coarse_first_weights_choose_the_codebooks() -> None:
    question = mask_coarse_first(
        some_codes(), mask_token=MASK, ratio=CosineRatio(), generator=generator(), weights=(1.0, 0.0, 1.0)
    )
    assert question.codebooks is not None
    assert set(question.codebooks.tolist()) == {0, 2}


def test_masks_follow_the_seed() -> None:
    for mask in (mask_joint, mask_coarse_first):
        first, again, other = (
            mask(some_codes(), mask_token=MASK, ratio=CosineRatio(), generator=generator(seed)).codes
            for seed in (1, 1, 2)
        )
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


def test_loss_is_smoothed_cross_entropy_of_what_is_asked() -> None:
    logits = torch.randn(2, 3, 5, 7, generator=generator(), requires_grad=True)
    targets = torch.randint(0, 7, (2, 3, 5), generator=generator())
    targets[0, 1] = IGNORED
    targets[1, :, 3] = IGNORED
    loss = masked_loss(logits, targets)
    expected = F.cross_entropy(logits.permute(0, 3, 1, 2), targets, ignore_index=IGNORED, label_smoothing=0.1)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad[0, 1] == 0).all()


def test_weights_say_how_much_a_code_frame_counts() -> None:
    logits = torch.randn(2, 3, 5, 7, generator=generator())
    targets = torch.randint(0, 7, (2, 3, 5), generator=generator())
    targets[0, :, 4] = IGNORED
    none_of_the_last = torch.ones(2, 5)
    none_of_the_last[:, 4] = 0
    torch.testing.assert_close(
        masked_loss(logits, targets, weights=none_of_the_last), masked_loss(logits[..., :4, :], targets[..., :4])
    )
    torch.testing.assert_close(
        masked_loss(logits, targets, weights=torch.full((2, 5), 3.0)), masked_loss(logits, targets)
    )


def test_loss_of_nothing_is_zero() -> None:
    logits = torch.randn(1, 1, 4, 7, requires_grad=True)
    loss = masked_loss(logits, torch.full((1, 1, 4), IGNORED))
    loss.backward()
    assert loss.item() == 0
