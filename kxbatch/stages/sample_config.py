"""Configuration of the `sample` stage, and what can be told of its samples before the model is loaded, or trained."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from kxbatch.data.images import fits_png
from kxbatch.errors import ConfigError
from kxbatch.spec.model import Config, MakerConfig, StageConfig
from kxbatch.stages.base import Reads
from kxbatch.stages.ddpm_config import DdpmConfig
from kxbatch.stages.vae import VaeConfig

if TYPE_CHECKING:
    from kxbatch.models.diffusion.generator import Sampling
    from kxbatch.models.latents import Latents

DIFFUSION, AUTOENCODER = "kxbatch-diffusion-model", "kxbatch-density-model"  # `architecture` in config.json
_SEVERAL = ("steps", "eta", "variance", "guidance")  # that may be given several times
_OF_DIFFUSION = ("solver", "steps", "eta", "variance", "guidance", "classes", "weights")


class LatentsConfig(Config):
    """Which latents a sample may begin with."""

    kinds: tuple[Literal["prior", "hubs", "shortest"], ...] = Field(
        ("hubs",),
        min_length=1,
        description="batches take them in turn. hubs: latents that are near to many others of their pool; shortest: as many, the "
        "shortest of the pool; prior: any",
    )
    pool: int = Field(10_000, ge=2, description="latents drawn at once, among which hubs are sought")
    k: int = Field(5, ge=1, description="length of the neighbour lists")
    threshold: int | None = Field(None, ge=1, description="a hub is in so many lists, or more; absent: 50")
    quantile: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="in place of threshold: a hub is in as many lists as this share of the pool is below",
    )
    rounds: int = Field(20, ge=1, description="pools drawn for a batch, at most, before the job stops")

    @field_validator("kinds", mode="before", json_schema_input_type=str | tuple[str, ...])
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _fields_go_together(self) -> LatentsConfig:
        if self.k >= self.pool:
            raise ValueError(f"k = {self.k}: a pool of {self.pool} has fewer neighbours; make the pool larger")
        if self.threshold is not None and self.quantile is not None:
            raise ValueError("threshold and quantile: give one of them")
        return self


class SampleConfig(MakerConfig):
    """Draws samples from a model."""

    kind: Literal["sample"] = "sample"
    model: str = Field(description="'stage:<name>', or the folder of a model that a vae or a ddpm stage trained")
    solver: Literal["ddim", "ddpm", "heun", "midpoint"] | None = Field(
        None, description="of a diffusion model, how noise is led to data; absent: ddim"
    )
    steps: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        None,
        min_length=1,
        description="of a diffusion model: how many of its steps; batches take several in turn; absent: 50, or all of fewer",
    )
    eta: tuple[Annotated[float, Field(ge=0, le=1)], ...] | None = Field(
        None,
        min_length=1,
        description="ddim: 0 draws no noise after the start, 1 is ancestral; one or several; absent: 0",
    )
    variance: tuple[Annotated[float, Field(ge=0, le=1)], ...] | None = Field(
        None, min_length=1, description="ddpm: 1 is the large one, 0 the small one; one or several; absent: 1"
    )
    guidance: tuple[Annotated[float, Field(ge=0)], ...] | None = Field(
        None,
        min_length=1,
        description="how hard samples follow their class; more than 1 costs twice the time; one or several; absent: 1",
    )
    classes: tuple[str, ...] | None = Field(
        None, description="classes that samples take in turn; absent: all that the model knows; []: none"
    )
    weights: Literal["average", "live"] | None = Field(
        None, description="of a diffusion model: the averaged ones, or those that the optimiser left; absent: average"
    )
    latents: LatentsConfig | None = None
    batch_rows: int = Field(64, ge=1, description="samples that go through the model together; decides how they round")
    device: str = Field("auto", description="'cpu', 'cuda' or auto")

    @field_validator(
        "steps", "eta", "variance", "guidance", mode="before", json_schema_input_type=float | tuple[float, ...] | None
    )
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int | float) else value

    @field_validator("classes", mode="before", json_schema_input_type=str | int | tuple[str | int, ...] | None)
    @classmethod
    def _names_are_texts(cls, value: Any) -> Any:
        """One is a list; whole numbers may name classes."""
        values = [value] if isinstance(value, str | int) else value
        return (
            tuple(str(one) if type(one) is int else one for one in values)
            if isinstance(values, list | tuple)
            else values
        )

    @model_validator(mode="after")
    def _fields_go_together(self) -> SampleConfig:
        if self.eta is not None and self.solver not in (None, "ddim"):
            raise ValueError(f"eta goes with solver = 'ddim', not with '{self.solver}'")
        if self.variance is not None and self.solver != "ddpm":
            raise ValueError(f"variance goes with solver = 'ddpm', not with '{self.solver or 'ddim'}'")
        if self.latents is not None and (self.solver == "ddpm" or any(self.eta or ())):
            raise ValueError(
                "latents are chosen for what they become: that takes a solver that adds no noise; use 'ddim' with eta = 0, "
                "'heun' or 'midpoint'"
            )
        return self

    @property
    def samplings(self) -> tuple[Sampling, ...]:
        """What is set of a diffusion model: all combinations of what is given several times."""
        from kxbatch.models.diffusion.generator import Sampling

        several = [[(name, value) for value in getattr(self, name) or ()] for name in _SEVERAL]
        plain = {name: value for name in ("solver", "classes") if (value := getattr(self, name)) is not None}
        return tuple(Sampling(**plain, **dict(chosen)) for chosen in product(*(one for one in several if one)))

    @property
    def chosen_latents(self) -> tuple[Latents, ...] | None:
        """How latents are chosen, one after the other; None: they are not."""
        from kxbatch.models.latents import Latents

        if self.latents is None:
            return None
        settings = self.latents.model_dump(exclude={"kinds"})
        return tuple(Latents(kind, **settings) for kind in self.latents.kinds)


@dataclass(frozen=True)
class Outlook:
    """What is known of samples.

    Attributes:
        image: whether they are images.
        diffusion: whether they come from a diffusion model.
        classes: whether it knows classes.
    """

    image: bool
    diffusion: bool = False
    classes: bool = False


def of_stage(config: SampleConfig, trains: StageConfig, reads: Reads) -> Outlook:
    """Of a model that a stage of this job trains.

    Args:
        config: of the sample stage.
        trains: configuration of the stage that trains the model.
        reads: what that one reads.

    Raises:
        ConfigError: it cannot be sampled so.
    """
    image = "image" in reads.kinds.values()
    assert isinstance(trains, VaeConfig | DdpmConfig)
    channels = (*trains.shape, 1)[2] if trains.shape else 1 if image else None  # images are grey or RGB
    if isinstance(trains, VaeConfig):
        _refuse_diffusion(config)
        return Outlook(fits_png(channels, trains.level_count))
    if trains.class_column is None and (config.classes or set(config.guidance or ()) - {1}):
        raise ConfigError(f"classes and guidance need a model with classes: give stage '{trains.name}' a class_column")
    if config.weights == "live" and trains.training.ema is None:
        raise ConfigError(
            f"weights = 'live': stage '{trains.name}' keeps no average, so there are no others; leave it out"
        )
    classes = trains.class_column is not None and config.classes != ()
    return Outlook(fits_png(channels, trains.level_count(image)), True, classes)


def of_folder(config: SampleConfig) -> tuple[Outlook, str]:
    """Of a model in a folder, and the model's digest.

    Raises:
        ConfigError: there is none, or it cannot be sampled so.
    """
    folder = Path(config.model)
    if is_diffusion(folder):
        from kxbatch.models.diffusion.trained import TrainedDiffusion, diffusion_digest

        found, classes = TrainedDiffusion.read(folder), None
        if config.weights == "live" and not found.average:
            raise ConfigError(f"weights = 'live': '{folder}' has no average, so there are no others; leave it out")
        for sampling in config.samplings:
            sampling.times(found.schedule.steps)
            classes = sampling.class_numbers(found.classes, unconditional=found.unconditional)
        image = fits_png(found.shape[2] if found.shape else None, found.levels)
        return Outlook(image, True, classes is not None), diffusion_digest(folder)
    from kxbatch.models.trained_vae import TrainedVae, vae_digest

    trained = TrainedVae.read(folder)
    _refuse_diffusion(config)
    network = trained.network
    levels = network.levels if network.discrete else None
    return Outlook(fits_png(network.shape[2] if network.shape else None, levels)), vae_digest(folder)


def is_diffusion(folder: Path) -> bool:
    """Whether the model in a folder is a diffusion model, or else an autoencoder, by its `config.json`.

    Raises:
        ConfigError: it is neither.
    """
    try:
        found = json.loads((folder / "config.json").read_bytes())["architecture"]
    except (OSError, ValueError, TypeError, KeyError):
        found = None
    if found not in (DIFFUSION, AUTOENCODER):
        raise ConfigError(
            f"'{folder}' has no model that samples can be drawn from; name the `_artifact` folder of a stage of kind 'vae' or "
            "'ddpm', or 'stage:<name>'"
        )
    return bool(found == DIFFUSION)


def _refuse_diffusion(config: SampleConfig) -> None:
    given = [name for name in _OF_DIFFUSION if getattr(config, name) is not None]
    if given:
        raise ConfigError(
            f"{given[0]} goes with a diffusion model; '{config.model}' is an autoencoder, which has no such thing"
        )
