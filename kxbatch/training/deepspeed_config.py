"""DeepSpeed's own configuration, made from the job; what a file may add to it, and what it may not change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from kxbatch.errors import ConfigError, nearest
from kxbatch.spec.training import TrainingConfig
from kxbatch.training.precision import Precision, training_precision
from kxbatch.training.refusals import refuse_with_deepspeed

BUCKET = 50_000_000  # elements sent at once: DeepSpeed's default of 5e8 reserves 2 GB for them

DECIDED = {  # what the trainer decides, and the job's key for it
    "train_batch_size": "batch_rows",
    "train_micro_batch_size_per_gpu": "micro_rows",
    "gradient_accumulation_steps": "batch_rows, micro_rows and workers",
    "managed_gradient_accumulation": "batch_rows and micro_rows",
    "gradient_clipping": "clip",
    "optimizer": "optimizer",
    "scheduler": "schedule",
    "fp16.enabled": "precision",
    "bf16.enabled": "precision",
    "torch_autocast.enabled": "precision",
    "zero_optimization.stage": "deepspeed.zero",
    "zero_optimization.offload_optimizer.device": "deepspeed.offload",
    "zero_optimization.offload_param.device": "deepspeed.offload",
}

# DeepSpeed takes any key at its top level and leaves those unread that it does not know; so a slip would pass in silence.
_KNOWN = """
    activation_checkpointing aio autotuning bf16 checkpoint comms_logger communication_data_type
    compile csv_monitor comet data_efficiency data_types dataloader_drop_last disable_allgather disable_python_gc
    dump_state expert_parallel flops_profiler fp16 gradient_accumulation_steps gradient_allreduce_op gradient_clipping
    gradient_predivide_factor log_level managed_gradient_accumulation memory_breakdown optimizer prescale_gradients
    scheduler seq_parallel_communication_data_type sparse_gradients steps_per_print tensor_parallel tensorboard timers
    torch_autocast train_batch_size train_micro_batch_size_per_gpu wall_clock_breakdown wandb
    zero_allow_untested_optimizer zero_force_ds_cpu_optimizer zero_optimization
"""
KNOWN = frozenset(_KNOWN.split())


def deepspeed_config(
    config: TrainingConfig, world: int, device: torch.device, override: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What `deepspeed.initialize` gets.

    Args:
        config: of the job.
        world: number of processes.
        device: where the model computes.
        override: parsed file of `deepspeed.file`; its keys are merged in, at any depth. "auto" means what the job says.

    Returns:
        Values of JSON only.

    Raises:
        ConfigError: the job asks for what DeepSpeed cannot do, or the file contradicts the job or has an unknown key.
    """
    precision = training_precision(config.precision, device)
    _refuse_what_cannot_work(config, world, device)
    ours = _ours(config, precision, world)
    given = override or {}
    for key in given:
        if key not in KNOWN:
            raise ConfigError(f"deepspeed.file: DeepSpeed has no key '{key}'{nearest(key, KNOWN)}")
        if given[key] is None or (isinstance(ours.get(key), Mapping) and not isinstance(given[key], Mapping)):
            wanted = "an object" if isinstance(ours.get(key), Mapping) else "a value"
            raise ConfigError(f"deepspeed.file: '{key}' is {given[key]!r}, but must be {wanted}; or leave it out")
    for path, job_key in DECIDED.items():
        _refuse_conflict(path, job_key, ours, given)
    return _merged(ours, given)


def _ours(config: TrainingConfig, precision: Precision, world: int) -> dict[str, Any]:
    zero: dict[str, Any] = {
        "stage": config.deepspeed.zero,
        "reduce_bucket_size": BUCKET,
        "allgather_bucket_size": BUCKET,
    }
    if config.deepspeed.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu"}
    if config.deepspeed.offload == "all":
        zero["offload_param"] = {"device": "cpu"}
    return {
        "train_batch_size": config.batch_rows,
        "train_micro_batch_size_per_gpu": config.rows_at_once,
        "gradient_accumulation_steps": config.micro_batches // world,
        "managed_gradient_accumulation": True,
        "gradient_clipping": config.clip or 0.0,
        "bf16": {"enabled": precision == "bf16"},
        "fp16": {"enabled": False},
        "torch_autocast": {"enabled": False},  # the backend's own autocast casts as plain torch's does
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,  # its optimiser for offloading would be compiled first
        "wall_clock_breakdown": False,
    }


def _refuse_what_cannot_work(config: TrainingConfig, world: int, device: torch.device) -> None:
    offload = config.deepspeed.offload
    if config.micro_batches % world:
        raise ConfigError(f"{world} workers cannot share the {config.micro_batches} micro-batches of a step equally")
    if offload != "none" and device.type != "cuda":
        raise ConfigError(
            f"deepspeed.offload = '{offload}' frees a GPU's memory, but the model computes on {device.type}; use 'none'"
        )
    refuse_with_deepspeed(config)


def _refuse_conflict(path: str, job_key: str, ours: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    theirs, decided = _at(given, path), _at(ours, path)
    if theirs is None or theirs == "auto" or theirs == decided:
        return
    if path == "fp16.enabled":
        raise ConfigError(
            "deepspeed.file: 'fp16' is refused: CPUs emulate it, and its range needs loss scaling that a resumed run would "
            "have to learn again; use precision = 'bf16' or 'autocast'"
        )
    says = "decides nothing of the kind" if decided is None else f"says {decided!r}"
    raise ConfigError(
        f"deepspeed.file: '{path}' is {theirs!r} there, but the job {says}; set {job_key} in the job instead"
    )


def _at(tree: Mapping[str, Any], path: str) -> Any:
    found: Any = tree
    for key in path.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _merged(ours: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(ours)
    for key, value in given.items():
        if isinstance(value, Mapping):
            below = merged.get(key)
            merged[key] = _merged(below if isinstance(below, Mapping) else {}, value)
        elif value != "auto":
            merged[key] = value
    return merged
