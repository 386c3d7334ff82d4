"""A trained classifier: features and classes of rows, in the units of the data.

Letters: n rows, D values of one, F features, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from kxbatch.errors import DataError
from kxbatch.models.classifier.networks import ClassifierNetwork
from kxbatch.models.device import run_batches
from kxbatch.models.diffusion.scaling import Scaling

ClassName = str | int
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Judged:
    """What a classifier says of rows.

    Attributes:
        features: of the last hidden layer, float32 [n, F].
        numbers: of the most likely class, int64 [n]; the first one of several.
        log_probabilities: log p(k | x), float32 [n, K], in nats.
    """

    features: Floats
    numbers: npt.NDArray[np.int64]
    log_probabilities: Floats


@dataclass(frozen=True, eq=False)
class Classifier:
    """Network and units.

    Attributes:
        network: in evaluation mode, on its device.
        scaling: from values to units of the network.
        columns: what it was trained on, in order.
        widths: values of each column.
        classes: by number, integers or texts as the column had them.
        held_out: share of the rows, chosen by id, that it has never learned from.
        image: the one column has images.
        shape: height, width, channels of an image, whose values lie in a row in this order; None for a vector.
        levels: values are whole numbers 0 to `levels - 1`; None: any.
    """

    network: ClassifierNetwork
    scaling: Scaling
    columns: tuple[str, ...]
    widths: tuple[int, ...]
    classes: tuple[ClassName, ...]
    held_out: float = 0.0
    image: bool = False
    shape: tuple[int, int, int] | None = None
    levels: int | None = None

    @property
    def values(self) -> int:
        """D."""
        return len(self.scaling.centre)

    @property
    def features_width(self) -> int:
        """F."""
        return self.network.features.out_features

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    def judge(self, values: npt.NDArray[np.floating], batch_rows: int = 256, threads: int = 1) -> Judged:
        """Features and classes of rows.

        A batch has the rows `i batch_rows` to `(i + 1) batch_rows - 1`. What is said of a row does not depend on the rows
        beside it, but torch may round it otherwise in a batch of another size.

        Args:
            values: in the units of the data, real [n, D]; finite.
            batch_rows: rows that are computed together.
            threads: of a CPU; their number changes nothing.

        Raises:
            DataError: rows have another number of values.
        """
        if values.ndim != 2 or values.shape[1] != self.values:
            raise DataError(
                f"rows of {values.shape[1:]} values, and the classifier was trained on {self.values} of each"
            )
        rows = len(values)
        features = np.empty((rows, self.features_width), np.float32)
        log_probabilities = np.empty((rows, len(self.classes)), np.float32)

        def work(number: int) -> None:
            batch = slice(number * batch_rows, (number + 1) * batch_rows)
            units = torch.from_numpy(self.scaling(values[batch].astype(np.float64))).to(self.device)
            with torch.inference_mode():
                features_nF, logits_nK = self.network(units)
                features[batch] = features_nF.cpu().numpy()
                log_probabilities[batch] = F.log_softmax(logits_nK, dim=1).cpu().numpy()

        run_batches(work, -(-rows // batch_rows), threads, self.device.type)
        return Judged(features, log_probabilities.argmax(axis=1), log_probabilities)
