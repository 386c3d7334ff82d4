"""State of a training that ZeRO has cut up: which elements of which parameter this process holds, and how they are put together.

ZeRO keeps the trained weights in flat fp32 tensors, and the optimiser knows only those. A process holds a piece of a
parameter, or none. DeepSpeed's own functions for this (`safe_get_full_fp32_param` and its kin) fail where the optimiser has
not stepped yet, and at stage 3 where the processes do not divide a parameter's elements; hence the map here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from kxbatch.training.backend import Read
from kxbatch.training.layout import Layout, lasting_buffers
from kxbatch.training.whole import load_buffers, on_cpu, state_device

Kept = Callable[[Tensor], Tensor | None]  # what is kept beside a flat tensor, element by element; None: zeros


@dataclass(frozen=True, eq=False)
class Piece:
    """`flat[at : at + count]` are the elements `start : start + count` of a parameter."""

    flat: Tensor
    at: int
    count: int
    start: int

    def of(self, kept: Tensor) -> Tensor:
        """This piece of the flat tensor, or of one that lies beside it."""
        return kept.detach()[self.at : self.at + self.count]

    def part(self, whole: Tensor) -> Tensor:
        """This piece of the whole parameter."""
        return whole.detach().reshape(-1)[self.start : self.start + self.count]


class ShardedState:
    """Reads and writes it by name, at ZeRO stages 1 to 3.

    Args:
        engine: DeepSpeed's, as initialised.
        model: the module that the names are of.
        layout: taken before DeepSpeed had the model.
        decay: of the averaged weights; None: no average.
        device: where processes exchange tensors.
    """

    def __init__(
        self, engine: Any, model: nn.Module, layout: Layout, decay: float | None, device: torch.device
    ) -> None:
        self._engine, self._model, self._device = engine, model, device
        self.layout = layout
        self._rank, self._world = dist.get_rank(), dist.get_world_size()
        self._weights = dict(model.named_parameters())
        self._zero = engine.optimizer
        self._stage3 = engine.zero_optimization_stage() == 3
        self._optimizer: torch.optim.Optimizer = self._zero.optimizer
        pieces_of = self._piece_at_stage_3 if self._stage3 else _piece_at_stage_1_or_2
        self._pieces = {name: pieces_of(self._zero, self._weights[name]) for name in layout.trainable}
        zero = self._zero
        self._flats: list[Tensor] = list(
            zero.fp32_partitioned_groups_flat if self._stage3 else zero.single_partition_of_fp32_groups
        )
        self._decay = decay
        self._shadows = {flat: flat.detach().clone() for flat in self._flats} if decay is not None else {}

    @torch.no_grad()
    def stepped(self) -> None:
        """After a step of the optimiser: every process averages what it holds."""
        if self._decay is not None:
            torch._foreach_lerp_(list(self._shadows.values()), list(self._shadows), 1 - self._decay)

    def share(self) -> Iterator[tuple[str, Tensor]]:
        """As `Backend.share`."""
        for i, (name, parameter) in enumerate(self._weights.items()):
            owner = i % self._world
            for part, value in self._parts(name, parameter, owner):
                if owner == self._rank:
                    yield f"{part}/{name}", on_cpu(value)
        if self._rank == 0:
            for name, buffer in lasting_buffers(self._model).items():
                yield f"buffers/{name}", on_cpu(buffer)

    def _parts(self, name: str, parameter: nn.Parameter, owner: int) -> Iterator[tuple[str, Tensor]]:
        if not parameter.requires_grad:
            yield "weights", self._frozen(parameter)
            return
        yield "weights", self._gathered(name, lambda flat: flat, owner)
        if self._shadows:
            yield "average", self._gathered(name, lambda flat: self._shadows[flat], owner)
        yield "optimizer/step", torch.tensor(self._steps())
        for key in ("exp_avg", "exp_avg_sq"):
            yield f"optimizer/{key}", self._gathered(name, self._moment(key), owner)

    @torch.no_grad()
    def load(self, state: Read) -> None:
        """As `Backend.load`."""
        self.layout.check(state)
        load_buffers(self._model, self.layout, state)
        self._release()
        for flat in self._flats:
            self._begin(flat)
        steps = 0.0
        for name, parameter in self._weights.items():
            weight = self.layout.read(state, f"weights/{name}")
            self._put(name, parameter, weight)
            if parameter.requires_grad:
                self._load_trained(state, name, weight)
                steps = max(steps, float(self.layout.read(state, f"optimizer/step/{name}")))
        for flat in self._flats:
            self._kept(flat)["step"].fill_(steps)

    def _load_trained(self, state: Read, name: str, weight: Tensor) -> None:
        piece = self._pieces[name]
        values = {key: self.layout.read(state, f"optimizer/{key}/{name}") for key in ("exp_avg", "exp_avg_sq")}
        average = self.layout.read(state, f"average/{name}") if self._shadows else None
        if piece is None:
            return
        piece.of(piece.flat).copy_(piece.part(weight))
        for key, value in values.items():
            piece.of(self._kept(piece.flat)[key]).copy_(piece.part(value))
        if average is not None:
            piece.of(self._shadows[piece.flat]).copy_(piece.part(average))

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """As `Backend.averaged`."""
        if not self._shadows:
            yield
            return
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def weights(self) -> dict[str, Tensor] | None:
        """As `Backend.weights`."""
        found: dict[str, Tensor] = {}
        for name, parameter in self._weights.items():
            trained = parameter.requires_grad
            value = self._gathered(name, lambda flat: flat, 0) if trained else self._frozen(parameter)
            if self._rank == 0:
                found[name] = on_cpu(value)
        if self._rank != 0:
            return None
        return found | {name: on_cpu(buffer) for name, buffer in lasting_buffers(self._model).items()}

    @torch.no_grad()
    def _gathered(self, name: str, kept: Kept, owner: int | None) -> Tensor:
        """A whole parameter, or what is kept of it, in process `owner`, or in all; elsewhere it is of no meaning."""
        shape = self.layout.weights[name]
        whole = torch.zeros(shape, dtype=torch.float32, device=self._device)
        piece = self._pieces[name]
        held = kept(piece.flat) if piece is not None else None
        if piece is not None and held is not None:
            piece.part(whole).copy_(piece.of(held))
        if owner is None:
            dist.all_reduce(whole)
        else:
            dist.reduce(whole, owner)
        return whole

    def _frozen(self, parameter: nn.Parameter) -> Tensor:
        with self._at_hand(parameter):
            return parameter.detach().clone()

    def _put(self, name: str, parameter: nn.Parameter, weight: Tensor) -> None:
        """The weight that the model computes with, as told from the fp32 one behind it."""
        if not self._stage3:
            parameter.copy_(weight)
        elif not parameter.requires_grad:
            with self._at_hand(parameter, writer=0):
                parameter.copy_(weight)
        elif (piece := self._pieces[name]) is not None:
            _held(parameter)[: piece.count].copy_(piece.part(weight))

    @torch.no_grad()
    def _exchange(self) -> None:
        """Weights and their average change places; in place, for DeepSpeed has views of the flat tensors."""
        self._release()
        for flat, shadow in self._shadows.items():
            before = flat.detach().clone()
            flat.detach().copy_(shadow)
            shadow.copy_(before)
        for name in self.layout.trainable:
            if self._stage3:
                piece = self._pieces[name]
                if piece is not None:
                    _held(self._weights[name])[: piece.count].copy_(piece.of(piece.flat))
            else:
                self._weights[name].copy_(self._gathered(name, lambda flat: flat, None))

    def _release(self) -> None:
        """At stage 3 some whole weights stay where they were last used: let them be put together anew."""
        if self._stage3:
            self._zero.empty_partition_cache()

    def _at_hand(self, parameter: nn.Parameter, writer: int | None = None) -> Any:
        from deepspeed.runtime.zero import GatheredParameters

        return GatheredParameters([parameter], modifier_rank=writer, enabled=self._stage3)

    def _kept(self, flat: Tensor) -> dict[str, Tensor]:
        kept: dict[str, Tensor] = self._optimizer.state[flat]
        return kept

    def _moment(self, key: str) -> Kept:
        return lambda flat: self._kept(flat).get(key)

    def _begin(self, flat: Tensor) -> None:
        """Optimisers begin their state in the first step, as zeros; it is wanted before."""
        if not self._kept(flat):
            step = torch.zeros((), device=state_device(self._optimizer, "step", flat))
            zeros = {key: torch.zeros_like(flat, requires_grad=False) for key in ("exp_avg", "exp_avg_sq")}
            self._optimizer.state[flat] = {"step": step, **zeros}

    def _steps(self) -> float:
        return max((float(self._kept(flat)["step"]) for flat in self._flats if self._kept(flat)), default=0.0)

    def _piece_at_stage_3(self, zero: Any, parameter: Any) -> Piece | None:
        group, at, held = zero.grad_position[zero.get_param_id(parameter)]
        count = min(held, parameter.ds_numel - held * self._rank)  # the last pieces are filled up with zeros
        return Piece(zero.fp32_partitioned_groups_flat[group], at, count, held * self._rank) if count > 0 else None


def _piece_at_stage_1_or_2(zero: Any, parameter: Any) -> Piece | None:
    mapping = parameter._hp_mapping
    if mapping is None:
        return None
    flat = zero.single_partition_of_fp32_groups[mapping.param_group_index]
    return Piece(
        flat, mapping.hp_fragment_address.start, mapping.hp_fragment_address.numel, mapping.lp_fragment_address.start
    )


def _held(parameter: Any) -> Tensor:
    """What this process has of a parameter that the model computes with, at stage 3."""
    held: Tensor = parameter.ds_tensor
    return held.data
