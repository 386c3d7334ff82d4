"""What cannot be trained as it is configured: told while a job is planned, before anything is read."""

from __future__ import annotations

from kxbatch.errors import ConfigError
from kxbatch.spec.training import TrainingConfig


def refuse_in_one_process(config: TrainingConfig) -> None:
    """What plain torch in one process cannot do.

    Raises:
        ConfigError: several workers, or bf16 weights.
    """
    if config.workers > 1:
        raise ConfigError(
            f"training.workers = {config.workers}: one process has one worker; use executor = 'ray', or workers = 1"
        )
    if config.precision == "bf16":
        raise ConfigError(
            "training.precision = 'bf16' needs DeepSpeed, which keeps the fp32 weights that small updates are added to; "
            "with executor = 'inline' use 'autocast' (bf16 arithmetic on fp32 weights) or 'fp32'"
        )


def refuse_with_deepspeed(config: TrainingConfig) -> None:
    """What DeepSpeed cannot do, whatever the device.

    Raises:
        ConfigError: names the two settings that do not go together.
    """
    zero, offload, kind = config.deepspeed.zero, config.deepspeed.offload, config.optimizer.kind
    if config.precision == "bf16" and zero == 0:
        raise ConfigError(
            "precision = 'bf16' does not go with deepspeed.zero = 0: DeepSpeed then takes a step of the optimiser while it "
            "sets up, before any gradient; use zero = 1, or precision = 'autocast'"
        )
    if kind != "adamw" and zero:
        raise ConfigError(
            f"optimizer.kind = '{kind}' does not go with deepspeed.zero = {zero}: ZeRO cuts all parameters, joined end to "
            "end, into equal parts, so that norms and rows of a single one are gone; use zero = 0, or kind = 'adamw'"
        )
    needed = {"none": 0, "optimizer": 1, "all": 3}[offload]
    if zero < needed:
        raise ConfigError(f"deepspeed.offload = '{offload}' needs deepspeed.zero = {needed} or more, not {zero}")
