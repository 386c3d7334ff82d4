"""`quality`: how good made rows are beside real ones. docs/sample.md has the formulas.

Two stages of this kind go together. One reads the real rows: it keeps their features, and measures those that models have never
learned from against the others, which is as good as made rows can get. The other one reads made rows and names it as `reference`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from safetensors.numpy import load_file

from kxbatch.data.arrays import Arrays
from kxbatch.data.quarantine import Rejected
from kxbatch.data.row_draws import held_out, row_keys
from kxbatch.errors import ConfigError, DataError
from kxbatch.kernels.sample_quality import Cloud, low_distance, quality
from kxbatch.spec.model import StageConfig
from kxbatch.stages.base import (
    Artifact,
    Column,
    ColumnKind,
    Context,
    FoldStage,
    Phase,
    Reads,
    trained_path,
    trained_stage,
    trained_stages,
)
from kxbatch.stages.numeric import Domain, Numeric, check_kinds, read_numeric
from kxbatch.stages.quality_config import LEAVES, QualityConfig
from kxbatch.stages.quality_groups import GROUPS, grouped, read_groups, together

if TYPE_CHECKING:
    from kxbatch.models.classifier.model import Classifier

FACTS, ROWS = "quality.json", "rows.safetensors"
_IMAGE_LEVELS = 256
_MEASURED = ("columns", "levels", "classifier", "class_column", "by", "rows")


class QualityStage(FoldStage[QualityConfig]):
    """Rows that are no numbers, or of another size than the classifier's, are set aside."""

    config_type = QualityConfig
    keeps_state: ClassVar[bool] = False
    _classifier: Classifier | None = None

    @property
    def phases(self) -> tuple[Phase, ...]:
        """It adds nothing to rows."""
        return ("fold",)

    @classmethod
    def reads(cls, config: QualityConfig) -> Column:
        """The first of its columns."""
        return Column(config.columns[0] if config.columns else None, "vector", ("number", "image"))

    @classmethod
    def also_reads(cls, config: QualityConfig) -> tuple[str, ...]:
        """The other ones, the class, and what parts groups."""
        named = ((config.columns or ())[1:]) + ((config.class_column,) if config.class_column else ()) + config.by
        return tuple(dict.fromkeys(named))

    @classmethod
    def adds(cls, config: QualityConfig) -> tuple[Column, ...]:
        """Nothing."""
        return ()

    @classmethod
    def check_columns(cls, config: QualityConfig, kinds: Mapping[str, ColumnKind]) -> None:
        """Numbers and vectors, or one image."""
        others = {*config.by, config.class_column} - {*(config.columns or ())}
        names = [name for name in kinds if name not in others]
        check_kinds(names, kinds)
        if config.levels is not None and any(kinds[name] == "image" for name in names):
            raise ConfigError(f"levels = {config.levels}: images have {_IMAGE_LEVELS}; leave it out")

    @classmethod
    def takes(cls, config: QualityConfig) -> dict[str, tuple[str, ...]]:
        """A stage that trains its classifier, and the one of the real rows."""
        return trained_stages((config.classifier, ("classifier",)), (config.reference, (LEAVES,)))

    @classmethod
    def check_taken(cls, config: QualityConfig, name: str, taken: StageConfig, own: Reads, theirs: Reads) -> None:
        """The reference is of real rows, seen through the same classifier."""
        if not isinstance(taken, QualityConfig):
            return
        if taken.reference is not None:
            raise ConfigError(
                f"reference = 'stage:{name}' is of made rows itself; name the quality stage of the real ones"
            )
        if taken.classifier != config.classifier:
            theirs_is, own_is = (
                f"classifier = '{one}'" if one else "no classifier" for one in (taken.classifier, config.classifier)
            )
            raise ConfigError(
                f"reference = 'stage:{name}' has {theirs_is}, and this stage {own_is}; features compare only where they are of one "
                "classifier"
            )

    def identity(self) -> dict[str, str]:
        """Digests of a classifier and of a reference from outside the job."""
        found, config = {}, self.config
        if config.classifier is not None and trained_stage(config.classifier) is None:
            from kxbatch.models.classifier.trained import classifier_digest

            found["classifier_digest"] = classifier_digest(Path(config.classifier))
        if config.reference is not None and trained_stage(config.reference) is None:
            file = _rows_file(config.reference)
            found["reference_digest"] = hashlib.sha256(file.read_bytes()).hexdigest()
        return found

    def semantic(self, phase: Phase) -> dict[str, Any]:
        """Rows are seen the same way whatever they are compared with."""
        values = super().semantic(phase)
        return {key: value for key, value in values.items() if key in _MEASURED} if phase == "fold" else values

    @property
    def data_columns(self) -> tuple[str, ...]:
        """The columns that are measured."""
        return self.config.columns or (self.column,)

    def unusable(self, table: pa.Table, context: Context) -> list[Rejected]:
        """Rows without usable values."""
        return self._read(table, context).rejected

    def fold(self, table: pa.Table, context: Context) -> Arrays:
        """Values, features and groups of the usable rows; of each group those with the smallest keys."""
        found = self._read(table, context)
        table = table.filter(pa.array(found.usable))
        values = _in_units(found.values, self._levels(table)).astype(np.float32)
        state: Arrays = {"keys": row_keys(table.column("id").to_pylist()), "values": values}
        return grouped(table, self.config.by, state | self._judged(table, found.values, context), self.config.rows)

    def merge(self, a: Arrays, b: Arrays) -> Arrays:
        """Of both.

        Raises:
            DataError: their rows are of different sizes.
        """
        if len(a["keys"]) and len(b["keys"]) and a["values"].shape[1] != b["values"].shape[1]:
            raise DataError(
                f"columns {', '.join(self.data_columns)}: rows of {a['values'].shape[1]} values and of {b['values'].shape[1]}; "
                "only rows of one size can be measured together"
            )
        return together(a, b, self.config.rows)

    def drift(self, pinned: Arrays, current: Arrays) -> float:
        """It keeps no state."""
        return 0.0

    def fit(self, pinned: Arrays, current: Arrays, context: Context) -> Artifact:
        """Figures of every group; of real rows, of those held out, and what the others are compared with.

        Raises:
            DataError: there is nothing to measure, or the reference is of other rows.
        """
        if not len(current["keys"]):
            raise DataError(f"columns {', '.join(self.data_columns)}: no row to measure")
        if self.config.reference is None:
            held = held_out(current["keys"], self.config.held_out)
            real = {name: array[~held] for name, array in current.items() if name != GROUPS}
            limit = low_distance(_cloud(real), _cloud(current).take(held), threads=context.threads)
            facts = [self._figures(real, current, held, limit, context)] if held.any() else []
            kept: Arrays = {name: array for name, array in real.items() if name in ("values", "features")}
            kept |= {} if limit is None else {"limit": np.array([limit])}
            return Artifact({ROWS: kept}, {FACTS: self._facts(facts, real, context)})
        real = self._reference(current, context)
        limit = float(real["limit"][0]) if "limit" in real else None
        found = []
        for place, settings in enumerate(read_groups(current)):
            rows = current["group"] == place
            if rows.any():
                found.append({"settings": settings} | self._figures(real, current, rows, limit, context))
        found.sort(key=lambda one: [(str(type(value)), value) for value in one["settings"].values()])
        return Artifact({}, {FACTS: self._facts(found, real, context)})

    def _reference(self, current: Arrays, context: Context) -> Arrays:
        """The real rows.

        Raises:
            DataError: they are of other columns, or were seen through another classifier.
        """
        folder = Path(trained_path(self.config.reference or "", context))
        real: Arrays = dict(load_file(_rows_file(str(folder))))
        seen = json.loads((folder / FACTS).read_bytes())["classifier_digest"]
        if real["values"].shape[1] != current["values"].shape[1] or seen != self._classifier_digest(context):
            raise DataError(
                f"reference = '{self.config.reference}' has rows of {real['values'].shape[1]} values, and these have "
                f"{current['values'].shape[1]}; both must be of the same columns, through the same classifier"
            )
        return real

    def _figures(
        self, real: Arrays, rows: Arrays, chosen: npt.NDArray[np.bool_], limit: float | None, context: Context
    ) -> dict[str, Any]:
        """Of some rows."""
        made = _cloud(rows).take(chosen)
        figures = asdict(quality(_cloud(real), made, k=self.config.k, limit=limit, threads=context.threads))
        if "number" in rows:
            numbers = rows["number"][chosen]
            shares = np.bincount(numbers, minlength=len(self._classes(context))) / len(numbers)
            figures["class_shares"] = shares.tolist()
        if "agrees" in rows:
            agrees = rows["agrees"][chosen]
            known = agrees >= 0
            figures["agreement"] = float(agrees[known].mean()) if known.any() else None
        return figures

    def _facts(self, groups: Sequence[Mapping[str, Any]], real: Arrays, context: Context) -> dict[str, Any]:
        return {
            "columns": list(self.data_columns),
            "role": "real" if self.config.reference is None else "made",
            "reference_rows": len(real["values"]),
            "dim": real["values"].shape[1],
            "features": real["features"].shape[1] if "features" in real else None,
            "classes": [str(name) for name in self._classes(context)],
            "classifier_digest": self._classifier_digest(context),
            "k": self.config.k,
            "groups": [dict(one) for one in groups],
        }

    def _judged(self, table: pa.Table, values: npt.NDArray[Any], context: Context) -> Arrays:
        """What the classifier says: features, the class it sees, and whether it is the one wanted; -1 where none is."""
        classifier = self._loaded(context)
        if classifier is None:
            return {}
        judged = classifier.judge(values, threads=context.threads)
        state: Arrays = {"features": judged.features, "number": judged.numbers}
        if self.config.class_column is not None:
            names = np.array([str(name) for name in classifier.classes], object)
            wanted = table.column(self.config.class_column).to_pylist()
            state["agrees"] = np.array(
                [
                    -1 if name is None else seen == str(name)
                    for seen, name in zip(names[judged.numbers], wanted, strict=True)
                ],
                np.int8,
            )
        return state

    def _read(self, table: pa.Table, context: Context) -> Numeric:
        classifier = self._loaded(context)
        levels = self._levels(table)
        if classifier is None:
            return read_numeric(table, self.data_columns, Domain(levels))
        if classifier.levels != levels:
            raise DataError(
                f"classifier = '{self.config.classifier}' was trained on values of {classifier.levels or 'no'} levels, and "
                f"{', '.join(self.data_columns)} has {levels or 'none'}; train it on rows like these"
            )
        widths = (classifier.values,) if len(self.data_columns) == 1 else classifier.widths
        return read_numeric(table, self.data_columns, Domain(levels, widths=widths, shape=classifier.shape))

    def _levels(self, table: pa.Table) -> int | None:
        kind = table.column(self.data_columns[0]).type
        return _IMAGE_LEVELS if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) else self.config.levels

    def _loaded(self, context: Context) -> Classifier | None:
        """The classifier, loaded once."""
        if self.config.classifier is not None and self._classifier is None:
            from kxbatch.models.classifier.trained import TrainedClassifier

            folder = Path(trained_path(self.config.classifier, context))
            self._classifier = TrainedClassifier.load(folder, device=context.device("auto"))
        return self._classifier

    def _classifier_digest(self, context: Context) -> str | None:
        if self.config.classifier is None:
            return None
        from kxbatch.models.classifier.trained import classifier_digest

        return classifier_digest(Path(trained_path(self.config.classifier, context)))

    def _classes(self, context: Context) -> tuple[str | int, ...]:
        classifier = self._loaded(context)
        return classifier.classes if classifier is not None else ()


def _cloud(state: Arrays) -> Cloud:
    return Cloud(state["values"], state.get("features"))


def _in_units(values: npt.NDArray[Any], levels: int | None) -> npt.NDArray[Any]:
    """Levels as numbers from -1 to 1; other values as they are."""
    return values if levels is None else values * (2 / (levels - 1)) - 1


def _rows_file(reference: str) -> Path:
    """Where a reference keeps its rows.

    Raises:
        ConfigError: it has none.
    """
    file = Path(reference) / ROWS
    if not file.is_file():
        raise ConfigError(
            f"reference = '{reference}': no {ROWS} there; name the `_artifact` folder of a quality stage of real rows, or "
            "'stage:<name>'"
        )
    return file


STAGE = QualityStage
