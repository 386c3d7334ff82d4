"""`density`: log p(x) of every row, with its error, and where it stands among rows the model has never seen.

Fold: the rows of the corpus that calibrate, held out by their ids from whatever was fitted. Map: every row. Burda, Grosse and
Salakhutdinov (2016) for the estimate; docs/density.md has the formulas.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from safetensors.numpy import load_file

from kxbatch.data.arrays import Arrays
from kxbatch.data.row_draws import held_out, row_keys
from kxbatch.spec.model import StageConfig
from kxbatch.stages.base import (
    Artifact,
    Column,
    ColumnKind,
    Context,
    FoldStage,
    Mapped,
    Phase,
    Reads,
    trained_path,
    trained_stage,
    trained_stages,
)
from kxbatch.stages.density_config import (
    CALIBRATION,
    FACTS,
    FITTED,
    TAKEN,
    DensityConfig,
    check_diffusion,
    check_model,
    check_use,
    read_reference,
)
from kxbatch.stages.density_gate import below_percentile, counted, few_samples, mean_moved
from kxbatch.stages.density_scores import SCORES, code_lengths, percentiles
from kxbatch.stages.numeric import check_kinds
from kxbatch.stages.rows import rejections
from kxbatch.stages.vae import fitted_rows

if TYPE_CHECKING:
    from kxbatch.stages.estimators.base import Estimator, Scored
    from kxbatch.stages.estimators.gaussian import GaussianEstimator

LISTS = "neighbor_scores"
_SAMPLE, _LEARNED = "sample.", "learned."


class Density(FoldStage[DensityConfig]):
    """Rows without usable values are set aside; a row nobody sought neighbours for has a null density."""

    config_type = DensityConfig
    _estimator: Estimator | None = None
    _fit: Arrays

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Calibrate, unless that was done elsewhere; then score."""
        return ("fold", "map") if self.config.reference is None else ("map",)

    @property
    def draws(self) -> bool:
        """The samples, and the noise."""
        return self.config.estimator in ("iwae", "diffusion")

    @classmethod
    def reads(cls, config: DensityConfig) -> Column:
        """The first of its columns."""
        if config.estimator == "knn":
            return Column(LISTS, "other")
        return Column(config.columns[0] if config.columns else None, "vector", ("number", "image"))

    @classmethod
    def also_reads(cls, config: DensityConfig) -> tuple[str, ...]:
        """The other ones, and the one that tells which rows calibrate."""
        return ((config.columns or ())[1:]) + ((config.fit_on,) if config.fit_on else ())

    @classmethod
    def adds(cls, config: DensityConfig) -> tuple[Column, ...]:
        """Density, its error, its place, and the score."""
        names = ["log_density", "bits_per_dim", "density_stderr", "ess", "density_percentile", "density_score"]
        names += ["elbo", "largest_weight"] if config.estimator == "iwae" else []
        return tuple(Column(name, "number") for name in names)

    @classmethod
    def takes(cls, config: DensityConfig) -> dict[str, tuple[str, ...]]:
        """The stage that trains its model, or made its lists."""
        return trained_stages((config.model, (TAKEN.get(config.estimator, "rows"),)))

    @classmethod
    def check_columns(cls, config: DensityConfig, kinds: Mapping[str, ColumnKind]) -> None:
        """Numbers and vectors, or one image."""
        if config.estimator != "knn":
            check_kinds([name for name in kinds if name != config.fit_on], kinds)

    @classmethod
    def check_taken(cls, config: DensityConfig, name: str, taken: StageConfig, own: Reads, theirs: Reads) -> None:
        """A model of the same columns, that has held out what calibrates; lists as the search left them."""
        check_model(config, name, taken, own, theirs)

    def identity(self) -> dict[str, str]:
        """Digests of a model and of a calibration from outside the job."""
        return self._model_identity() | self._reference_identity()

    def _reference_identity(self) -> dict[str, str]:
        if self.config.reference is None:
            return {}
        folder = read_reference(self.config, self.data_columns, self._model_identity().get("model_digest"))
        files = [folder / name for name in (CALIBRATION, FITTED) if (folder / name).is_file()]
        return {"reference_digest": hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()}

    def _model_identity(self) -> dict[str, str]:
        model = self.config.model
        if self.config.estimator not in TAKEN or model is None or trained_stage(model) is not None:
            return {}
        from kxbatch.stages.estimators.base import check_columns

        folder = Path(model)
        if self.config.estimator == "diffusion":
            from kxbatch.models.diffusion.trained import TrainedDiffusion, diffusion_digest

            diffusion = TrainedDiffusion.read(folder)
            check_columns(model, diffusion.columns, self.data_columns)
            check_diffusion(self.config, diffusion.schedule.steps, unconditional=diffusion.unconditional)
            check_use(self.config, diffusion.held_out, discrete=diffusion.levels is not None)
            return {"model_digest": diffusion_digest(folder)}
        from kxbatch.models.trained_vae import TrainedVae, vae_digest

        trained = TrainedVae.read(folder)
        check_columns(model, trained.columns, self.data_columns)
        check_use(self.config, trained.held_out, discrete=trained.network.discrete)
        return {"model_digest": vae_digest(folder)}

    def semantic(self, phase: Phase) -> dict[str, Any]:
        """Scores and kept columns change no calibration; when to refit decides no row."""
        values = super().semantic(phase)
        left_out = {"refit", "max_drift", "labels"} | ({"score", "keep"} if phase == "fold" else set())
        return {key: value for key, value in values.items() if key not in left_out}

    @property
    def data_columns(self) -> tuple[str, ...]:
        """The columns the density is of."""
        return self.config.columns or (self.column,)

    def fold(self, table: pa.Table, context: Context) -> Arrays:
        """What the estimator learns of rows, and of those that calibrate, at most `calibration_rows`, what it says of them."""
        estimator, config = self._estimating(context), self.config
        rows = estimator.read(table)
        keys = row_keys(table.column("id").filter(pa.array(rows.usable)).to_pylist())
        fits = fitted_rows(table, config.fit_on)[rows.usable]
        held = held_out(keys, config.calibration_share)
        chosen = np.flatnonzero(fits & held)
        chosen = chosen[np.argsort(keys[chosen], kind="stable")[: config.calibration_rows]]
        sample = _finite(estimator.sample(rows.values[chosen], keys[chosen]) | {"keys": keys[chosen]})
        return _tagged(_LEARNED, estimator.learn(rows.values[fits & ~held])) | _tagged(_SAMPLE, sample)

    def merge(self, a: Arrays, b: Arrays) -> Arrays:
        """What was learned from both, and the calibration rows with the smallest keys.

        Where rows of the two have different widths, those of the larger number stay, and `map` sets the others aside.
        """
        if self.config.estimator == "gaussian":
            return self._merge_gaussian(a, b)
        return _tagged(_SAMPLE, self._together(_untagged(_SAMPLE, a), _untagged(_SAMPLE, b)))

    def _merge_gaussian(self, a: Arrays, b: Arrays) -> Arrays:
        learned = [_untagged(_LEARNED, state) for state in (a, b)]
        first, second = (int(one["n"]) for one in learned)
        if not first or not second or not np.array_equal(learned[0]["widths"], learned[1]["widths"]):
            return a if first >= second else b
        sample = self._together(_untagged(_SAMPLE, a), _untagged(_SAMPLE, b))
        return _tagged(_LEARNED, self._gaussian().unite(*learned)) | _tagged(_SAMPLE, sample)

    def _together(self, a: Arrays, b: Arrays) -> Arrays:
        """Rows of two samples with the smallest keys."""
        if not len(a["keys"]) or not len(b["keys"]):
            return a if len(a["keys"]) else b
        both = {name: np.concatenate([a[name], b[name]]) for name in a}
        first = np.argsort(both["keys"], kind="stable")[: self.config.calibration_rows]
        return {name: array[first] for name, array in both.items()}

    def drift(self, pinned: Arrays, current: Arrays) -> float:
        """Largest distance of the two distributions of densities; of the gaussian, of what it was fitted on."""
        before, now = (np.sort(self._calibration(pinned, _untagged(_SAMPLE, state))) for state in (pinned, current))
        if not len(before) or not len(now):
            return 0.0
        both = np.concatenate([before, now])
        return float(np.abs(_share_up_to(before, both) - _share_up_to(now, both)).max())

    def fit(self, pinned: Arrays, current: Arrays, context: Context) -> Artifact:
        """Densities of the calibration rows, sorted, what the estimator fitted, and facts for the report."""
        estimator, sample = self._estimating(context), _untagged(_SAMPLE, pinned)
        fitted = estimator.fit(_untagged(_LEARNED, pinned))
        estimator.load(fitted)
        found = estimator.calibration(sample)
        calibration = np.sort(found[np.isfinite(found)])
        facts = self._facts(estimator, calibration) | estimator.facts(sample)
        levels = facts["levels"]
        facts["compression"] = code_lengths(sample, levels) if levels else None
        arrays = {CALIBRATION: {"log_density": calibration}} | ({FITTED: fitted} if fitted else {})
        return Artifact(arrays, {FACTS: facts})

    def open(self, context: Context) -> None:
        """Load model and calibration."""
        estimator = self._estimating(context)
        if self.config.reference is not None:
            read_reference(self.config, self.data_columns, estimator.model_digest)
        estimator.load(self._fitted(FITTED, context) if self.config.estimator == "gaussian" else {})
        self._fit = self._fitted(CALIBRATION, context)

    def _fitted(self, name: str, context: Context) -> Arrays:
        """Of this stage, or of the one it refers to."""
        if self.config.reference is not None:
            return dict(load_file(Path(self.config.reference) / name))
        assert context.artifact is not None
        return context.artifact(name)

    def map(self, table: pa.Table, context: Context) -> Mapped:
        """Score the usable rows."""
        estimator = self._estimating(context)
        rows = estimator.read(table)
        keys = row_keys(table.column("id").filter(pa.array(rows.usable)).to_pylist())
        scored = estimator.score(rows.values, keys)
        context.counters.update(scored.counters)
        good = ~np.isinf(scored.log_density)
        if self.config.estimator != "knn":
            good &= ~np.isnan(scored.log_density)
        columns = self._columns(estimator, rows.values, scored)
        found, places = (
            columns[name].filter(pa.array(good)).drop_null().to_numpy()
            for name in ("log_density", "density_percentile")
        )
        context.counters.update(counted(found, places, self._fit["log_density"], int((~good).sum())))
        reasons = np.full(len(table), "", object)
        reasons[np.flatnonzero(rows.usable)[~good]] = "no-density"
        words = {
            "no-density": f"columns {', '.join(self.data_columns)}: the density is no number, so far is the row from all others"
        }
        rejected = sorted([*rows.rejected, *rejections(table, reasons, words)], key=lambda one: one.row)
        mask = pa.array(good)
        return Mapped({name: column.filter(mask) for name, column in columns.items()}, rejected)

    @property
    def has_gate(self) -> bool:
        """Rows are remembered even without limits, so that a limit set later has something to compare with."""
        return self.config.estimator != "knn"

    def judge(self, new: Mapping[str, float], before: Mapping[str, float]) -> list[str]:
        """Share of rows below a percentile, and move of the mean."""
        gate = self.config.gate
        low = below_percentile(new, gate.percentile, gate.max_share_below_percentile)
        return [*low, *mean_moved(new, before, gate.max_mean_drift)]

    def remarks(self, counters: Mapping[str, float]) -> list[str]:
        """Estimates that hang on a few samples."""
        return few_samples(counters, self.config.draws)

    def _calibration(self, state: Arrays, sample: Arrays) -> npt.NDArray[np.float64]:
        """Densities of a sample under what was learned in a state."""
        if self.config.estimator == "gaussian":
            gaussian = self._gaussian()
            gaussian.load(gaussian.fit(_untagged(_LEARNED, state)))
            return gaussian.calibration(sample)
        found: npt.NDArray[np.float64] = sample["log_density"]
        return found

    def _gaussian(self) -> GaussianEstimator:
        from kxbatch.stages.estimators.gaussian import GaussianEstimator

        return GaussianEstimator(self.data_columns)

    def _columns(self, estimator: Estimator, values: npt.NDArray[Any], scored: Scored) -> dict[str, pa.Array]:
        found, calibration = scored.log_density, self._fit["log_density"]
        doubles = {"log_density": found, "bits_per_dim": -found / (estimator.dim * np.log(2.0))}
        columns = {name: pa.array(array, from_pandas=True) for name, array in doubles.items()}
        for name, kind in (("density_stderr", pa.float64()), ("ess", pa.float32())):
            given = scored.columns.get(name)
            columns[name] = pa.nulls(len(found), kind) if given is None else pa.array(given, kind, from_pandas=True)
        columns["density_percentile"] = pa.array(percentiles(found, calibration), from_pandas=True)
        score = SCORES[self.config.score](found, calibration, values, estimator.levels)
        columns["density_score"] = pa.array(score, from_pandas=True)
        more = {name: array for name, array in scored.columns.items() if name not in columns}
        return columns | {name: pa.array(array) for name, array in more.items()}

    def _facts(self, estimator: Estimator, calibration: npt.NDArray[np.float64]) -> dict[str, Any]:
        config = self.config
        mean = (
            {"mean": float(calibration.mean()), "standard_deviation": float(calibration.std())}
            if len(calibration)
            else {}
        )
        return {
            "estimator": config.estimator,
            "columns": list(self.data_columns),
            "dim": estimator.dim,
            "discrete": estimator.discrete,
            "likelihood": None,
            "samples": None,
            "model_digest": estimator.model_digest,
            "score": config.score,
            "labels": config.labels,
            "levels": estimator.levels,
            "shape": None,
            "calibration": {"rows": len(calibration), **mean} if len(calibration) else None,
            "convergence": [],
            "latent": None,
        }

    def _estimating(self, context: Context) -> Estimator:
        """The estimator; loads a model once."""
        if self._estimator is None:
            self._estimator = self._make(context)
        return self._estimator

    def _make(self, context: Context) -> Estimator:
        config, model = self.config, trained_path(self.config.model or "", context)
        if config.estimator == "gaussian":
            return self._gaussian()
        if config.estimator == "knn":
            from kxbatch.stages.estimators.knn import NeighborEstimator

            return NeighborEstimator(Path(model))
        told: dict[str, Any] = {"seed": context.seed, "threads": context.threads, "gpus": context.gpus}
        if config.estimator == "diffusion":
            from kxbatch.stages.estimators.diffusion import DiffusionEstimator

            return DiffusionEstimator(Path(model), self.data_columns, steps=config.steps, draws=config.draws, **told)
        from kxbatch.stages.estimators.iwae import ImportanceEstimator

        return ImportanceEstimator(Path(model), self.data_columns, samples=config.draws, **told)


def _tagged(tag: str, arrays: Arrays) -> Arrays:
    return {tag + name: array for name, array in arrays.items()}


def _finite(sample: Arrays) -> Arrays:
    """Without the rows whose density is no number: `map` sets those aside, and they calibrate nothing."""
    if "log_density" not in sample:
        return sample
    kept = np.isfinite(sample["log_density"])
    return {name: array[kept] for name, array in sample.items()}


def _untagged(tag: str, arrays: Arrays) -> Arrays:
    return {name.removeprefix(tag): array for name, array in arrays.items() if name.startswith(tag)}


def _share_up_to(values: npt.NDArray[np.float64], points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.searchsorted(values, points, side="right") / len(values)


STAGE = Density
