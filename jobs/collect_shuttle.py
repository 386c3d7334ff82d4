"""Write the Statlog shuttle data, nine sensor readings a row with known outliers, to one Parquet file.

    python jobs/collect_shuttle.py --output out/shuttle/shuttle.parquet

49 097 rows, 3 511 of them odd (every class but the two largest; the second largest is left out). The file comes with
the package `river`: nothing is downloaded at run time, and river itself is not imported. Columns: `id`, `sensor_1` ..
`sensor_9` (whole numbers, as doubles; the source gives no names and no units), `readings` (the nine as a vector), `odd`,
`normal` (the rows to learn from: about half of those that are not odd, chosen by a hash of the id), `asks` (all others).
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
from collecting import appearing, read_installed

SHA256 = "1ed4bfa77233d95bff2c8ab2482725d2d800410daedf5919ad80ec6faf60ff59"  # shuttle.csv.gz of river 0.26.0 and 0.26.1
SENSORS = 9
ROWS_OF_A_GROUP = 12_500  # row groups are what shards are cut at


def to_learn_from(row_id: str) -> bool:
    """Whether a row that is not odd is one to learn from: a fair coin that depends on the id alone."""
    return hashlib.sha256(row_id.encode()).digest()[0] < 128


def table() -> pa.Table:
    """All rows, in river's order.

    Raises:
        SystemExit: river is not installed, or its data file is not the one this job was written for.
    """
    packed = read_installed("river==0.26.*", "datasets/shuttle.csv.gz", SHA256)
    raw = pc.read_csv(io.BytesIO(gzip.decompress(packed)))
    ids = [f"shuttle-{row:05d}" for row in range(raw.num_rows)]
    odd = [value == 1 for value in raw["anomaly"].to_pylist()]
    normal = [not is_odd and to_learn_from(row_id) for row_id, is_odd in zip(ids, odd, strict=True)]
    sensors = {f"sensor_{i}": raw[f"f{i}"].cast(pa.float64()) for i in range(1, SENSORS + 1)}
    readings = np.stack([column.to_numpy() for column in sensors.values()], axis=1)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(readings.reshape(-1)), SENSORS)
    asks = [not is_normal for is_normal in normal]
    return pa.table({"id": ids, **sensors, "readings": vectors, "odd": odd, "normal": normal, "asks": asks})


def main() -> None:
    """Parse the command line and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="Parquet file to write")
    arguments = parser.parse_args()
    rows = table()
    with appearing(arguments.output) as partial:
        pq.write_table(rows, partial, row_group_size=ROWS_OF_A_GROUP)
    odd, normal = (sum(rows[name].to_pylist()) for name in ("odd", "normal"))
    print(f"{rows.num_rows} rows, {odd} odd, {normal} to learn from -> {arguments.output}")


if __name__ == "__main__":
    main()
