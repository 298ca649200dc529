"""The loop that every stage of training runs in: schedule, clipping, moving average, checkpoints, progress.

A stage can be stopped at any instant and goes on from its last checkpoint with the same data and the same random draws,
because everything that is drawn in step n follows from (stage seed, n) alone.
"""

from __future__ import annotations

import abc
import io
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from vatt_core.errors import BadModel
from vatt_core.media.atomic import write_bytes
from vatt_core.model.products import product_cost
from vatt_core.training.schedule import cosine_factor, official_factor

Report = Callable[["StageProgress"], None]
Schedule = Literal["cosine", "linear"]

_FACTORS = {"cosine": cosine_factor, "linear": official_factor}


@dataclass(frozen=True)
class StageProgress:
    """One report. figures: running means of what the stage measured; eta: seconds until the stage ends."""

    stage: str
    step: int
    steps: int
    figures: dict[str, float]
    eta: float


@dataclass(frozen=True)
class StageOptions:
    """How a stage is optimised (AdamW). schedule: of the learning rate, "linear" as VATT was trained. clip_norm: of the
    gradient, None as in VATT. ema_decay: keep a moving average of the weights, which is what is used later.
    mixed_precision: matrix products in bfloat16 on devices where that is faster (:func:`bfloat16_pays`); not for stages
    with convolutions, whose bfloat16 gradients are wrong on some CPUs."""

    steps: int
    learning_rate: float
    schedule: Schedule = "cosine"
    warm_up_steps: int = 50
    weight_decay: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.98)
    clip_norm: float | None = 1.0
    ema_decay: float | None = None
    mixed_precision: bool = False
    seed: int = 0


class TrainingStage(abc.ABC):
    """One stage. The loop calls `modules` and `trainable` once, then `losses` at each step."""

    name: str
    options: StageOptions

    @abc.abstractmethod
    def modules(self) -> dict[str, nn.Module]:
        """The modules that are trained or changed, by name: all of their state is kept in the checkpoint."""

    @abc.abstractmethod
    def losses(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """The loss under "loss" (a scalar with gradient) and any figures to report (detached scalars)."""

    def trainable(self) -> Iterable[nn.Parameter]:
        """The parameters that the optimiser changes; by default all that require a gradient."""
        return [p for module in self.modules().values() for p in module.parameters() if p.requires_grad]


def step_generator(seed: int, step: int) -> torch.Generator:
    """The random numbers of one step, the same on every machine and after every resumption."""
    generator = torch.Generator()
    generator.manual_seed((seed * 1_000_003 + step) % (2**63))
    return generator


def bfloat16_pays(device: str) -> bool:
    """Whether matrix products in bfloat16 are clearly faster than in float32. A GPU is not asked."""
    return device != "cpu" or product_cost(torch.bfloat16) < 0.7


def run_stage(
    stage: TrainingStage,
    folder: Path,
    *,
    report: Report | None = None,
    checkpoint_seconds: float = 60.0,
    report_seconds: float = 5.0,
) -> None:
    """Run a stage to its end, from its checkpoint in `folder` where one lies there. Done stages return at once.

    Raises BadModel when the loss is no longer a number, or when the checkpoint belongs to another configuration.
    """
    options = stage.options
    modules = stage.modules()
    parameters = list(stage.trainable())
    optimiser = torch.optim.AdamW(
        parameters, lr=options.learning_rate, betas=options.betas, weight_decay=options.weight_decay
    )
    path = folder / f"{stage.name}.pt"
    start, average = _resume(path, stage, modules, optimiser)
    if options.ema_decay and not average:
        average = [p.detach().clone() for p in parameters]
    if start >= options.steps:
        # What a finished stage leaves are its final weights: the average is in them already.
        for module in modules.values():
            module.eval()
        return
    for module in modules.values():
        module.train()

    device = parameters[0].device.type
    mixed = options.mixed_precision and bfloat16_pays(device)
    begun = saved = reported = time.monotonic()
    sums: dict[str, float] = {}
    counted = 0
    for step in range(start, options.steps):
        factor = _FACTORS[options.schedule](step, warm_up_steps=options.warm_up_steps, total_steps=options.steps)
        for group in optimiser.param_groups:
            group["lr"] = options.learning_rate * factor
        with torch.autocast(device, torch.bfloat16, enabled=mixed):
            figures = stage.losses(step, step_generator(options.seed, step))
        optimiser.zero_grad(set_to_none=True)
        figures["loss"].backward()
        if options.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(parameters, options.clip_norm)
        optimiser.step()
        if options.ema_decay:
            decay = min(options.ema_decay, (step + 1) / (step + 10))
            with torch.no_grad():
                torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - decay)
        for name, value in figures.items():
            sums[name] = sums.get(name, 0.0) + float(value.detach())
        counted += 1
        now = time.monotonic()
        last = step + 1 == options.steps
        if now - reported >= report_seconds or last:
            means = {name: value / counted for name, value in sums.items()}
            if means["loss"] != means["loss"]:
                raise BadModel(f"the loss of stage {stage.name} is no number at step {step}; lower its learning rate")
            if report is not None:
                eta = (now - begun) / (step + 1 - start) * (options.steps - step - 1)
                report(StageProgress(stage.name, step + 1, options.steps, means, eta))
            sums, counted, reported = {}, 0, now
        if now - saved >= checkpoint_seconds and not last:
            _save(path, step + 1, modules, optimiser, average)
            saved = now
    if average:
        with torch.no_grad():
            for parameter, mean in zip(parameters, average, strict=True):
                parameter.copy_(mean)
    for module in modules.values():
        module.eval()
    _save(path, options.steps, modules, None, [])


def _save(
    path: Path,
    step: int,
    modules: dict[str, nn.Module],
    optimiser: torch.optim.Optimizer | None,
    average: list[Tensor],
) -> None:
    # Through memory: torch's own writer ends in an error without a type when the disk is full.
    buffer = io.BytesIO()
    torch.save(
        {
            "step": step,
            "modules": {name: module.state_dict() for name, module in modules.items()},
            "optimiser": optimiser.state_dict() if optimiser is not None else None,
            "average": average,
        },
        buffer,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, buffer.getbuffer())


def _resume(
    path: Path,
    stage: TrainingStage,
    modules: dict[str, nn.Module],
    optimiser: torch.optim.Optimizer,
) -> tuple[int, list[Tensor]]:
    """The step to go on from and the moving average kept with it, none where the stage is new or was done."""
    if not path.exists():
        return 0, []
    state = torch.load(path, map_location="cpu", weights_only=True)
    try:
        for name, module in modules.items():
            module.load_state_dict(state["modules"][name])
        if state["optimiser"] is not None:
            optimiser.load_state_dict(state["optimiser"])
        device = optimiser.param_groups[0]["params"][0].device
        average = [mean.to(device) for mean in state["average"]]
    except (KeyError, RuntimeError, ValueError) as error:
        raise BadModel(
            f"{path} was written by another configuration of stage {stage.name} ({error}); "
            "remove it or choose a new folder"
        ) from error
    return min(int(state["step"]), stage.options.steps), average
