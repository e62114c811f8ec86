"""Make the embedded `cifar10-mini`: the first 200 training and 100 test images of each class.

    python tools/make_cifar10_mini.py ROOT

reads ROOT/uoft-cs/cifar10/plain_text/{train,test}-*.parquet and writes ddhub/assets/cifar10-mini/.
Rows keep their order and their encoded bytes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

PER_CLASS = {"train": 200, "test": 100}
OUT = Path(__file__).resolve().parent.parent / "ddhub" / "assets" / "cifar10-mini"


def main(root: str) -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    for split, count in PER_CLASS.items():
        files = sorted(Path(root, "uoft-cs/cifar10/plain_text").glob(f"{split}-*.parquet"))
        table = pa.concat_tables([pq.read_table(file) for file in files])
        labels = table["label"].to_numpy()
        rows = np.concatenate([np.flatnonzero(labels == c)[:count] for c in np.unique(labels)])
        mini = table.take(pa.array(np.sort(rows)))
        file = OUT / f"{split}.parquet"
        # The JPEG header is the same in every image: zstd stores it once.
        pq.write_table(mini, file, compression="zstd", compression_level=19)
        print(f"{file}: {len(mini)} images, {file.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
