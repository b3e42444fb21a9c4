"""One step of training: batches in, changed weights out."""

import contextlib
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hat.model import HAT
from hat.preprocessing import Preprocessing
from hat.runtime.torch_runtime import AUTOCAST_TYPES

from .augmentation import Augmentation
from .config import TrainConfig
from .cpu_kernels import CpuKernels
from .distillation import Distillation
from .distributed import DistributedContext, synchronize_batch_norms
from .losses import LossParts, hat_loss
from .optimizer import ModelEma, build_optimizer, parameter_groups, set_learning_rate, training_mode
from .randomness import derive_seed
from .run.run_folder import StepState

_DROPOUT = 1  # tells seeds of dropout from seeds of anything else that is derived from (seed, epoch)


class Batch(NamedTuple):
    """This process's part of a batch, on the training device."""

    images: Tensor  # (B, 3, H, W) uint8 RGB
    pids: Tensor  # (B,) int64
    positions: Tensor  # (B,) int64, in the epoch's global sequence of images
    indices: Tensor  # (B,) int64, which training images they are


class TrainingStep:
    """A model, a HAT or any module that gives a `TrainingOutput` in training mode, with everything that changes it.

    The model is moved to the device, and its batch norms are synchronized where there are several processes.
    """

    def __init__(
        self,
        model: nn.Module,
        preprocessing: Preprocessing,
        config: TrainConfig,
        context: DistributedContext,
        distillation: Distillation | None = None,
    ) -> None:
        self.config = config
        self.context = context
        # On the device once, and for pixels in 0-255.
        values = torch.tensor([preprocessing.mean, preprocessing.std], device=context.device)
        self._mean, self._std = (255 * values).view(2, 1, 3, 1, 1)
        self._layout = torch.channels_last if config.compute.channels_last else torch.contiguous_format
        self.model = cast(nn.Module, model.to(context.device).to(memory_format=self._layout))  # type: ignore[call-overload]
        if context.world_size > 1 and config.distributed.sync_batch_norm:
            self.model = synchronize_batch_norms(self.model, context.device)
        if isinstance(self.model, HAT):
            # Of the last stage's map nothing but CLS is read: the same losses and gradients for a tenth fewer operations.
            self.model.dsa.cls_only = True
        self.train_mode()
        self.optimizer = build_optimizer(self.model, config.optim, skips_steps=config.compute.precision == "fp16")
        if context.device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # shapes are the same in every step
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = config.compute.tf32
        self.scaler = torch.amp.GradScaler(context.device.type, enabled=config.compute.precision == "fp16")
        self.average = ModelEma(self.model, config.ema) if config.ema.enabled else None
        self.augmentation = Augmentation(config.augmentation, preprocessing.mean, config.seed)
        self._parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.distillation = distillation
        projection = None if distillation is None else distillation.projection
        self._projection = [] if projection is None else list(projection.parameters())
        if projection is not None:
            self._parameters += self._projection
            for group in parameter_groups(projection, config.optim):
                self.optimizer.add_param_group({**group, "name": group["name"].replace("rest", "projection")})
        self._distributed: DistributedDataParallel | None = None
        if context.world_size > 1:
            # Two layouts describe a 1 x 1 filter in channels_last alike; torch warns where the gradient has the other one.
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
            self._distributed = DistributedDataParallel(
                self.model,
                device_ids=[context.device.index] if context.device.type == "cuda" else None,
                gradient_as_bucket_view=True,
            )
        self._captures = config.compute.compile == "reduce-overhead"
        self._forward: Any = self._distributed or self.model
        if config.compute.compile:
            self._forward = torch.compile(self._forward, mode="reduce-overhead" if self._captures else "default")
        half = AUTOCAST_TYPES.get(config.compute.precision)
        self._autocast = contextlib.nullcontext() if half is None else torch.autocast(context.device.type, dtype=half)
        helps = context.device.type == "cpu" and not config.compute.compile
        self._kernels = CpuKernels() if helps else contextlib.nullcontext()

    def __call__(self, batches: Sequence[Batch], epoch: int, step: int, lr: float) -> dict[str, Tensor]:
        """Take one step of the optimizer by the mean gradient of the batches; ``lr`` is before the groups' own factors.

        Epoch and step, counted from 0, decide with the seed and the rank what dropout drops. Returns scalars on the device,
        means over batches and processes: ``"loss"``, its parts (`hat_loss`, `Distillation`), and ``"grad_norm"`` where
        gradients are clipped.
        """
        # Reseeded for every step, so that a resumed run needs no state of any generator.
        torch.manual_seed(derive_seed(self.config.seed, epoch, step, self.context.rank, _DROPOUT))
        if self._captures:
            torch.compiler.cudagraph_mark_step_begin()
        set_learning_rate(self.optimizer, lr, epoch)
        self.optimizer.zero_grad(set_to_none=True)
        metrics: dict[str, Tensor] = {}
        for index, batch in enumerate(batches):
            for name, value in self._accumulate(batch, epoch, len(batches), last=index == len(batches) - 1).items():
                metrics[name] = metrics[name] + value if name in metrics else value
        metrics = self._exchange(metrics)
        if self.config.optim.clip_grad_norm is not None:
            self.scaler.unscale_(self.optimizer)
            metrics["grad_norm"] = nn.utils.clip_grad_norm_(self._parameters, self.config.optim.clip_grad_norm).detach()
        self.scaler.step(self.optimizer)
        skipped = None
        if self.scaler.is_enabled():
            # The scaler's own record: to ask in public what it did would wait for the device.
            skipped = torch.stack(list(self.scaler._found_inf_per_device(self.optimizer).values())).amax()
        self.scaler.update()
        if self.average is not None:
            self.average.update(skipped)
        return metrics

    def state(self) -> StepState:
        """Return all that changes from step to step."""
        average = self.average
        projection = None if self.distillation is None else self.distillation.projection
        return {
            "model": dict(self.model.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": None if average is None else dict(average.model.state_dict()),
            "num_average_updates": 0 if average is None else int(average.num_updates),
            "projection": None if projection is None else dict(projection.state_dict()),
        }

    def restore(self, state: StepState) -> None:
        """Take up a state of the same run."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        if self.average is not None and state["average"] is not None:
            self.average.model.load_state_dict(state["average"])
            self.average.num_updates.fill_(state["num_average_updates"])
        if self.distillation is not None and self.distillation.projection is not None and state["projection"] is not None:
            self.distillation.projection.load_state_dict(state["projection"])

    def train_mode(self) -> None:
        """Make the model ready for training again, after it was evaluated."""
        training_mode(self.model, self.config.optim.frozen_levels)

    def prepare(self, images: Tensor) -> Tensor:
        """Normalize: (B, 3, H, W) uint8 to float32 in the model's memory layout."""
        return images.to(torch.float32, memory_format=self._layout).sub_(self._mean).div_(self._std)

    def _accumulate(self, batch: Batch, epoch: int, num_batches: int, *, last: bool) -> dict[str, Tensor]:
        """Add a batch's part of the gradients; processes exchange theirs after the last one only."""
        with self._distributed.no_sync() if self._distributed is not None and not last else contextlib.nullcontext():
            seen = self.augmentation(batch.images, epoch, batch.positions)
            images = self.prepare(seen)
            with self._autocast, self._kernels:
                outputs = self._forward(images)
            everywhere = self.config.distributed.global_triplets
            loss = hat_loss(outputs.branches, batch.pids, self.config.loss, global_triplets=everywhere)
            if self.distillation is not None:
                taught = self.distillation(outputs.embedding, seen, batch.indices)
                loss = LossParts(loss.total + taught.total, {**loss.parts, **taught.parts})
            self.scaler.scale(loss.total / num_batches).backward()
        return {name: value / num_batches for name, value in {"loss": loss.total.detach(), **loss.parts}.items()}

    def _exchange(self, metrics: dict[str, Tensor]) -> dict[str, Tensor]:
        """Make means over processes: of metrics, and of the projection's gradients as DDP makes them of the model's own."""
        if self.context.world_size == 1:
            return metrics
        for parameter in self._projection:
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad.div_(self.context.world_size)
        values = torch.stack(list(metrics.values()))
        dist.all_reduce(values)
        return dict(zip(metrics, (values / self.context.world_size).unbind(), strict=True))
