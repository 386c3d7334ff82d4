"""`[[stage]]` of kind `density`: its keys, and which other stages it goes with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from kxbatch.errors import ConfigError
from kxbatch.spec.model import Config, Operational, StageConfig
from kxbatch.stages.base import Reads, trained_stage
from kxbatch.stages.ddpm_config import LEAVES, DdpmConfig
from kxbatch.stages.density_gate import PERCENTILES
from kxbatch.stages.vae import VaeConfig

CALIBRATION, FITTED, FACTS = "calibration.safetensors", "fitted.safetensors", "density.json"
TAKEN = {"iwae": "density model", "diffusion": LEAVES}  # what a stage leaves that an estimator computes with
_DRAWS = {"iwae": 500, "diffusion": 1}


class GateConfig(Config):
    """`[stage.gate]`: when a job ends with exit status 4 instead of going on with rows that look wrong."""

    percentile: float = Field(1.0, description="percentile of the calibration rows: 0.1, 1, 5 or 10")
    max_share_below_percentile: float | None = Field(
        None, ge=0, le=1, description="largest share of new rows below it; absent: any"
    )
    max_mean_drift: float | None = Field(
        None,
        gt=0,
        description="largest move of the mean log-density of new rows, in robust standard deviations of the calibration rows",
    )

    @field_validator("percentile")
    @classmethod
    def _percentile_is_counted(cls, value: float) -> float:
        if value not in PERCENTILES:
            raise ValueError(f"percentile = {value:g}; allowed: {', '.join(f'{p:g}' for p in PERCENTILES)}")
        return value


class DensityConfig(StageConfig):
    """Gives every row a log-density."""

    kind: Literal["density"] = "density"
    estimator: Literal["iwae", "diffusion", "gaussian", "knn"] = Field(
        "iwae",
        description="a trained autoencoder; a trained diffusion model, of which a lower bound is known; the normal distribution of "
        "the rows; the lists of a hubness stage",
    )
    columns: tuple[str, ...] | None = Field(
        None, min_length=1, description="number and vector columns, or one image column; absent: the only vector column"
    )
    model: str | None = Field(
        None,
        description="iwae, diffusion: 'stage:<name>' of a vae or ddpm stage, or the folder of its artifact; knn: 'stage:<name>' of "
        "a hubness stage",
    )
    samples: int | None = Field(
        None,
        ge=1,
        description="iwae: importance samples of a row; absent: 500. diffusion: draws of noise for each row and time; absent: 1",
    )
    steps: int | None = Field(
        None, ge=1, description="diffusion: how many of the model's times are stepped through; absent: all"
    )
    fit_on: str | None = Field(
        None, description="boolean column: only its true rows are fitted on (gaussian) and calibrate; absent: all"
    )
    calibration_share: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="share of the rows, chosen by id, that percentiles are taken from; 0: no percentiles",
    )
    calibration_rows: int = Field(10_000, ge=1, description="most rows that calibrate")
    reference: str | None = Field(
        None,
        description="folder of the artifact of a density stage elsewhere, whose calibration rows are taken (gaussian: "
        "and distribution); absent: those of this corpus",
    )
    score: Literal["nll", "typicality", "complexity"] = Field(
        "nll", description="density_score: -log p; |log p - its mean|; -log p less the length that zlib needs"
    )
    labels: str | None = Field(
        None, description="boolean or 0/1 column of known outliers, for the report; must be in keep"
    )
    gate: Annotated[GateConfig, Operational] = GateConfig()
    refit: Literal["never", "on-drift", "always"] = Field(
        "never", description="when rows that came later lead to a new fit and calibration"
    )
    max_drift: float = Field(
        0.1,
        gt=0,
        description="distance of the calibration rows' densities (Kolmogorov-Smirnov) above which 'on-drift' fits again",
    )

    @field_validator("columns", mode="before", json_schema_input_type=str | tuple[str, ...] | None)
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _fields_go_together(self) -> DensityConfig:
        if (self.model is None) != (self.estimator == "gaussian"):
            raise ValueError(
                "estimator = 'gaussian' fits itself; leave model out"
                if self.estimator == "gaussian"
                else f"estimator = '{self.estimator}' needs a model: 'stage:<name>'"
            )
        if self.estimator == "knn" and (self.columns is not None or trained_stage(self.model or "") is None):
            raise ValueError("estimator = 'knn' reads the lists of model = 'stage:<hubness stage>'; leave columns out")
        if self.estimator not in TAKEN and self.score == "complexity":
            raise ValueError(
                "score = 'complexity' compares code lengths: it needs estimator = 'iwae' or 'diffusion' and whole levels"
            )
        if self.steps is not None and self.estimator != "diffusion":
            raise ValueError(f"steps goes with estimator = 'diffusion', not with '{self.estimator}'; leave it out")
        calibrates = bool(self.calibration_share) or self.reference is not None
        if self.score == "typicality" and not calibrates:
            raise ValueError("score = 'typicality' needs calibration rows: calibration_share above 0")
        if self.gate.max_share_below_percentile is not None and not calibrates:
            raise ValueError("gate.max_share_below_percentile needs calibration rows: calibration_share above 0")
        gated = self.gate.max_share_below_percentile is not None or self.gate.max_mean_drift is not None
        if gated and self.refit != "never":
            raise ValueError(
                f"refit = '{self.refit}' fits the very rows that a gate is to find; leave the gate's limits out, or refit = 'never'"
            )
        if gated and self.estimator == "knn":
            raise ValueError(
                "estimator = 'knn' has no gate: new rows change the densities of all others; use 'gaussian' or 'iwae'"
            )
        if self.gate.max_mean_drift is not None and not calibrates:
            raise ValueError("gate.max_mean_drift needs calibration rows: calibration_share above 0")
        if self.columns is not None and len(set(self.columns)) < len(self.columns):
            raise ValueError("columns names a column twice")
        if self.reference is not None and self.estimator == "knn":
            raise ValueError("estimator = 'knn' is of the rows of this corpus; a reference is of others")
        if self.labels is not None and self.labels not in self.keep:
            raise ValueError(f"labels = '{self.labels}' must be in keep, so that the report finds it")
        return self

    @property
    def draws(self) -> int:
        """Samples of a row, or draws of noise."""
        return self.samples or _DRAWS.get(self.estimator, 1)

    def semantic(self) -> dict[str, Any]:
        """A number of samples says the same written or left out."""
        return super().semantic() | {"samples": self.draws}


def check_model(config: DensityConfig, name: str, taken: StageConfig, own: Reads, theirs: Reads) -> None:
    """Whether a stage leaves what this one needs: a model of the same columns, that has held out what calibrates; or lists.

    Raises:
        ConfigError: it does not.
    """
    if config.estimator == "knn":
        _check_lists(name, taken)
        if own.upstream != name:
            raise ConfigError(
                f"model = 'stage:{name}', but the lists it reads are those of '{own.upstream}'; set input = '{name}'"
            )
        return
    assert isinstance(taken, VaeConfig | DdpmConfig)
    beside = taken.fit_on if isinstance(taken, VaeConfig) else taken.class_column
    learned = [origin for column, origin in theirs.origins.items() if column != beside]
    scored = [origin for column, origin in own.origins.items() if column != config.fit_on]
    if learned != scored:
        raise ConfigError(
            f"model = 'stage:{name}' is trained on {', '.join(learned)}, but this stage reads {', '.join(scored)}; "
            "write the same input and columns in both"
        )
    if isinstance(taken, DdpmConfig):
        check_diffusion(config, taken.noise.steps, unconditional=taken.class_column is None or taken.class_dropout > 0)
        levels = taken.level_count("image" in theirs.kinds.values())
    else:
        levels = taken.level_count
    check_use(config, taken.training.validation_share, discrete=levels is not None)


def check_diffusion(config: DensityConfig, total: int, *, unconditional: bool) -> None:
    """Whether a diffusion model has the bound that is asked for.

    Args:
        config: of the stage.
        total: T of the model.
        unconditional: whether it has learned to go without a class.

    Raises:
        ConfigError: it has not.
    """
    if config.steps is not None and config.steps > total:
        raise ConfigError(f"steps = {config.steps}: the model was trained with {total}; take as many or fewer")
    if not unconditional:
        raise ConfigError(
            f"model = '{config.model}' has only learned to see classes, and a density is of rows without one: train it with "
            "class_dropout above 0, or without class_column"
        )


def check_use(config: DensityConfig, held_out: float, *, discrete: bool) -> None:
    """Whether a model serves for calibration and score.

    Args:
        config: of the stage.
        held_out: share of the rows that the model has never learned from.
        discrete: whether it is of whole levels.

    Raises:
        ConfigError: it does not.
    """
    wanted = config.calibration_share if config.reference is None else 0.0
    if wanted > held_out:
        raise ConfigError(
            f"calibration_share = {wanted:g}, but the model has held out {held_out:g} of the rows: percentiles would come from "
            f"rows it has learned from; set training.validation_share = {wanted:g} there, or calibration_share = {held_out:g} here"
        )
    if config.score == "complexity" and not discrete:
        raise ConfigError(
            "score = 'complexity' compares code lengths: the model must be of whole levels, not of real numbers"
        )


def read_reference(config: DensityConfig, columns: tuple[str, ...], model_digest: str | None = None) -> Path:
    """The folder that `reference` names.

    Args:
        config: of the stage.
        columns: that it reads.
        model_digest: of its model, None where it is still to be trained.

    Raises:
        ConfigError: it is no artifact of a density stage, or of one that computes something else.
    """
    folder = Path(config.reference or "")
    if "://" in str(config.reference):
        raise ConfigError(
            f"reference = '{config.reference}': a folder that every worker sees is needed, not a URL; copy it there"
        )
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        found = {"estimator": facts["estimator"], "columns": tuple(facts["columns"]), "samples": facts["samples"]}
        found |= {"model": facts["model_digest"], "steps": facts.get("steps")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"reference = '{config.reference}' is no artifact of a density stage ({type(error).__name__}: {error}); name the "
            "`_artifact` folder of one"
        ) from None
    samples = config.draws if config.estimator in _DRAWS else None
    wanted: dict[str, Any] = {
        "estimator": config.estimator,
        "columns": columns,
        "samples": samples,
        "steps": config.steps,
    }
    wanted |= {} if model_digest is None else {"model": model_digest}
    differing = [
        f"{name} {found[name]!r} there, {wanted[name]!r} here" for name in wanted if found[name] != wanted[name]
    ]
    if differing:
        raise ConfigError(f"reference = '{config.reference}' has other densities: {'; '.join(differing)}")
    return folder


def _check_lists(name: str, taken: StageConfig) -> None:
    """Whether the lists tell distances of rows.

    Raises:
        ConfigError: they do not.
    """
    if taken.kind != "hubness":
        raise ConfigError(
            f"model = 'stage:{name}' is of kind '{taken.kind}'; estimator = 'knn' reads the lists of a hubness stage"
        )
    reduction, metric = getattr(taken, "reduction", ""), getattr(taken, "metric", "")
    if reduction not in ("none", "centering") or metric == "inner":
        raise ConfigError(
            f"model = 'stage:{name}' has metric '{metric}' and reduction '{reduction}', whose scores are no distances; "
            "a density needs metric 'cosine' or 'euclidean' and reduction 'none' or 'centering'"
        )
