"""Write the handwritten digits that come with scikit-learn to one Parquet file.

    python jobs/collect_digits.py --output out/digits/digits.parquet --normal 3

1 797 images of 8 x 8 pixels and 17 grey levels, there wherever scikit-learn is: nothing is downloaded. Columns: `id`,
`image` (PNG, 8-bit grey, level 16 is white), `pixels` (the same 64 levels as a vector), `label`; with `--normal C` also
`normal` (the rows to learn from: the first two thirds of class C) and `odd` (every row of another class). The last third
of class C is neither.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from collecting import appearing
from PIL import Image

LEVELS = 17  # grey levels 0..16
ROWS_OF_A_GROUP = 450  # row groups are what shards are cut at
CLASSES = range(10)


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Levels (uint8 [1797, 8, 8], 0..16) and labels (int8 [1797], 0..9), in scikit-learn's order.

    Raises:
        SystemExit: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits  # late: --help needs no scikit-learn
    except ModuleNotFoundError as error:
        raise SystemExit(f"the digits come with scikit-learn: pip install scikit-learn ({error})") from error
    found = load_digits()
    return found.images.astype(np.uint8), found.target.astype(np.int8)


def png(levels: np.ndarray) -> bytes:
    """One image (uint8 [height, width], 0..16) as an 8-bit grey PNG, its levels spread over 0..255."""
    grey = np.rint(levels * (255 / (LEVELS - 1))).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(grey).save(file, format="PNG")
    return file.getvalue()


def to_learn_from(labels: np.ndarray, normal: int) -> np.ndarray:
    """The first two thirds of the rows of class `normal`, bool [rows]."""
    of_class = labels == normal
    return of_class & (np.cumsum(of_class) <= round(of_class.sum() * 2 / 3))


def table(normal: int | None) -> pa.Table:
    """All rows; with the columns `normal` and `odd` where a class is named."""
    levels, labels = digits()
    columns = {
        "id": pa.array([f"digit-{row:04d}" for row in range(len(labels))]),
        "image": pa.array([png(one) for one in levels], pa.binary()),
        "pixels": pa.FixedSizeListArray.from_arrays(pa.array(levels.reshape(-1)), levels[0].size),
        "label": pa.array(labels),
    }
    if normal is not None:
        columns["normal"] = pa.array(to_learn_from(labels, normal))
        columns["odd"] = pa.array(labels != normal)
    return pa.table(columns)


def main() -> None:
    """Parse the command line and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="Parquet file to write")
    parser.add_argument("--normal", type=int, choices=CLASSES, help="the class that is not odd (default: none is)")
    arguments = parser.parse_args()
    rows = table(arguments.normal)
    with appearing(arguments.output) as partial:
        pq.write_table(rows, partial, row_group_size=ROWS_OF_A_GROUP)
    print(f"{rows.num_rows} rows, columns {', '.join(rows.column_names)} -> {arguments.output}")


if __name__ == "__main__":
    main()
