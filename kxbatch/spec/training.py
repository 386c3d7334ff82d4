"""`[stage.training]`: how a model is trained. What decides the weights, and what only decides where and how fast they are made."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from kxbatch.spec.model import Config, Operational


class OptimizerConfig(Config):
    """Which optimiser, and its constants."""

    kind: Literal["adamw", "lamb", "adafactor"] = Field("adamw", description="lamb: one trust ratio a parameter")
    rate: float = Field(1e-3, gt=0, description="peak learning rate")
    beta1: float = Field(0.9, ge=0, lt=1, description="decay of the first moment")
    beta2: float = Field(0.999, ge=0, lt=1, description="decay of the second moment")
    epsilon: float = Field(1e-8, gt=0, description="added to the root of the second moment")
    weight_decay: float = Field(0.01, ge=0, description="of matrices; vectors and scalars never decay")


class ScheduleConfig(Config):
    """The learning rate as a share of its peak, by step."""

    kind: Literal["constant", "linear", "cosine", "piecewise"] = Field("linear", description="shape after the warm-up")
    warmup: int = Field(0, ge=0, description="steps over which the rate rises from 0 to its peak")
    floor: float = Field(0.0, ge=0, le=1, description="share of the peak at the last step (linear, cosine)")
    points: tuple[tuple[int, float], ...] = Field(
        (), description="piecewise: steps and shares of the peak, joined by straight lines"
    )

    @model_validator(mode="after")
    def _points_belong_to_piecewise(self) -> ScheduleConfig:
        steps = [step for step, _ in self.points]
        if (self.kind == "piecewise") != bool(self.points):
            raise ValueError("points go with kind = 'piecewise', and only with it")
        if steps != sorted(set(steps)) or any(step < 0 or share < 0 for step, share in self.points):
            raise ValueError("points must have rising steps from 0 on, and shares of 0 or more")
        return self


class DeepSpeedConfig(Config):
    """How several workers share one model's state. Of no meaning for `executor = "inline"`, which is plain torch."""

    zero: Literal[0, 1, 2, 3] = Field(
        1, description="ZeRO stage: 1 shards the optimiser's state, 2 gradients too, 3 weights too"
    )
    offload: Literal["none", "optimizer", "all"] = Field(
        "none", description="what lies in memory instead of on the GPU"
    )
    file: str | None = Field(
        None, description="JSON file whose keys override the DeepSpeed configuration made from this job"
    )


class TrainingConfig(Config):
    """How a model is trained."""

    steps: int | None = Field(None, ge=0, description="optimiser steps at most; absent: what `epochs` says")
    epochs: float | None = Field(
        None, gt=0, description="passes over the rows at most; absent: as many as `steps` take, or 1"
    )
    batch_rows: int = Field(32, ge=1, description="rows of one optimiser step, over all workers")
    micro_rows: int | None = Field(
        None, ge=1, description="rows that go through the model at once; absent: all of a step"
    )
    shuffle_rows: int = Field(65_536, ge=1, description="rows of a window within which rows are shuffled")
    sort_within: Literal["window", "step"] = Field(
        "window",
        description="where rows are sorted by length. window: rows of a micro-batch are of one length, with hardly any "
        "padding; step: the rows of a step are drawn at random, only its micro-batches differ in length",
    )
    validation_share: float = Field(0.0, ge=0, lt=1, description="share of the rows, chosen by id, that is held out")
    validation_rows: int = Field(10_000, ge=1, description="most held-out rows that a validation reads")
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    clip: float | None = Field(1.0, gt=0, description="largest norm of the gradient; absent: no clipping")
    ema: float | None = Field(
        None, gt=0, lt=1, description="decay of the averaged weights, which are then what is exported"
    )
    precision: Literal["auto", "fp32", "autocast", "bf16"] = Field(
        "auto",
        description="autocast: bf16 arithmetic on fp32 weights; bf16: weights, too (DeepSpeed); auto: autocast if the device can",
    )
    early_stop: int | None = Field(None, ge=1, description="end after so many validations without a better one")
    on_divergence: Annotated[Literal["fail", "record"], Operational] = Field(
        "fail", description="a loss that is no number: end the job, or keep the last good state and go on"
    )
    refit: Annotated[Literal["never", "always"], Operational] = Field(
        "never", description="when rows that came later lead to a new training"
    )
    workers: Annotated[int, Operational] = Field(1, ge=1, description="processes that train one model together")
    deepspeed: Annotated[DeepSpeedConfig, Operational] = DeepSpeedConfig()
    log_every: Annotated[int, Operational] = Field(10, ge=1, description="steps between two lines of the history")
    validate_every: int | None = Field(None, ge=1, description="steps between two validations; absent: at the end only")
    checkpoint_every: Annotated[int, Operational] = Field(500, ge=1, description="steps between two checkpoints")
    checkpoint_seconds: Annotated[float, Operational] = Field(
        600, gt=0, description="longest time between two checkpoints"
    )
    keep_last: Annotated[int, Operational] = Field(2, ge=1, description="checkpoints kept, newest first")
    keep_best: Annotated[bool, Operational] = Field(True, description="also keep the checkpoint of the best validation")

    @model_validator(mode="after")
    def _batches_fit(self) -> TrainingConfig:
        if self.batch_rows % self.rows_at_once:
            raise ValueError(f"micro_rows = {self.micro_rows} does not divide batch_rows = {self.batch_rows}")
        if self.micro_batches % self.workers:
            fitting = [w for w in range(1, self.micro_batches + 1) if self.micro_batches % w == 0]
            raise ValueError(
                f"workers = {self.workers} cannot share the {self.micro_batches} micro-batches of a step "
                f"(batch_rows / micro_rows); allowed are {', '.join(map(str, fitting))}, or a smaller micro_rows"
            )
        if self.early_stop is not None and (self.validate_every is None or not self.validation_share):
            raise ValueError("early_stop needs validate_every and validation_share")
        return self

    @property
    def rows_at_once(self) -> int:
        """Rows of one micro-batch."""
        return self.micro_rows or self.batch_rows

    @property
    def micro_batches(self) -> int:
        """Micro-batches of one step, over all workers: the same for any number of workers, and so is the step."""
        return self.batch_rows // self.rows_at_once
