"""Results: means and deviations computed by hand, and no result of something else."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from ddhub.artifact import results
from ddhub.artifact.manifest import Manifest, canonical, seal
from ddhub.artifact.results import Entry, Mean, Result
from ddhub.errors import ArtifactError
from ddhub.protocols.named import protocol
from ddhub.protocols.protocol import Protocol

CLASSES = ("airplane", "automobile", "bird")
SHORT = protocol("infer-dynamic")


def tiny(**changes: Any) -> Manifest:
    """A manifest as INFER's, of three classes of 3 x 4 x 6 pixels: 2,000 stored bytes, 331 raw ones."""
    fields: dict[str, Any] = {
        "name": "tiny-infer-ipc2",
        "method": "infer",
        "dataset": "tiny",
        "ipc": 2,
        "classes": CLASSES,
        "image_size": (3, 4, 6),
        "mean": (0.5, 0.5, 0.5),
        "std": (0.2, 0.2, 0.2),
        "pixel_range": ((0.0, 1.0),) * 3,
        "encoding": {"codec": "png"},
        "decoder": {"kind": "compensate"},
        "labels": {"kind": "soft", "temperature": 30.0},
        "protocol": asdict(SHORT),
        "recipe": {
            "path": "recipes/infer.py",
            "repository": "ddhub",
            "commit": "abc",
            "modules": {"recipes/infer.py": "0" * 64},
            "preset": "tiny-ipc2-cpu",
            "config": {"ipc": 2, "teachers": ["a", "b"], "lr": 0.25},
            "seed": 0,
            "run": {"device": "CPU, threads: 2", "seconds": 12.5, "peak_bytes": 3 * 2**29},
        },
        "source": {
            "name": "tiny",
            "hub_id": "a/tiny",
            "split": "train",
            "fingerprint": "f00d",
            "notes": "JPEG copy",
            "license": "mit",
        },
        "teachers": [{"model": "convnet3-bn", "accuracy": 71.234, "epochs": 4}],
        "license": "mit",
        "citation": "@misc{tiny,\n  author={Müller}\n}",
        "deviations": ["Scaled down: teacher_epochs 4 instead of 200"],
        "paper": [{"model": "resnet18", "accuracy": 32.0, "sd": 0.5, "where": "Table 1"}],
        "tensors": {
            "images": {"dtype": "U8", "shape": [3, 3, 4, 6]},
            "image_labels": {"dtype": "U8", "shape": [3]},
            "decoder.compensators": {"dtype": "I8", "shape": [1, 1, 3, 4, 6]},
            "decoder.scale": {"dtype": "F32", "shape": [1, 1]},
            "labels.logits": {"dtype": "F16", "shape": [6, 3]},
        },
        "content": "c" * 64,
        "files": {
            "data/train-00000-of-00001.parquet": {"sha256": "0" * 64, "bytes": 1500},
            "tensors.safetensors": {"sha256": "0" * 64, "bytes": 500},
        },
    }
    if changes.get("tensors") == {}:  # before anything is stored
        fields |= {"content": "", "files": {}}
    return Manifest(**{**fields, **changes})


def result(manifest: Manifest, seed: int, accuracy: float, plan: Protocol = SHORT, **changes: Any) -> Result:
    fields: dict[str, Any] = {
        "artifact": manifest.name,
        "digest": manifest.digest,
        "protocol": plan.name,
        "protocol_digest": plan.digest,
        "settings": plan.to_json(),
        "model": "convnet3",
        "seed": seed,
        "accuracy": accuracy,
        "test": "Tiny (JPEG copy)",
        "test_images": 10000,
        "test_name": manifest.dataset,
        "test_fingerprint": "beef" * 16,
        "epochs": plan.epochs,
        "steps": 200,
        "seconds": 10.0 + seed,
        "device": "CPU, threads: 1",
        "precision": "fp32",
        "versions": "torch",
    }
    return Result(**{**fields, **changes})


def test_mean_and_sample_deviation() -> None:
    m = tiny()
    three = Mean(tuple(result(m, seed, x) for seed, x in enumerate((40.0, 41.0, 43.5))))
    assert three.mean == 41.5
    assert three.sd == pytest.approx((6.5 / 2) ** 0.5)  # deviations -1.5, -0.5, 2; n - 1 = 2
    assert three.text == "41.50 ± 1.80"
    one = Mean((result(m, 0, 40.0),))
    assert (one.sd, one.text) == (None, "40.00")
    assert three.to_json()["n"] == 3


def test_a_seed_recorded_twice_counts_once() -> None:
    m = tiny()
    (mean,) = Entry(m, [result(m, 0, 40.0), result(m, 1, 42.0), result(m, 0, 90.0)]).means()
    assert (mean.mean, len(mean.runs)) == (41.0, 2)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"accuracy": "high"}, "field 'accuracy' is not as in a Result"),
        ({"accuracy": True}, "field 'accuracy' is not as in a Result"),
        ({"accuracy": 1e308}, "field 'accuracy' is not as in a Result"),
        ({"accuracy": -0.5}, "field 'accuracy' is not as in a Result"),
        ({"best": 99.0}, "field 'best' is not as in a Result"),
        ({"digest": "0" * 64}, "not of this artifact"),
        ({"artifact": "other"}, "not of this artifact"),
    ],
)
def test_results_of_something_else_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], cause: str
) -> None:
    m = tiny()
    monkeypatch.setattr(results, "read_manifest", lambda folder: m)
    records = [asdict(result(m, 0, 40.0)), {**asdict(result(m, 1, 41)), **change}]
    (tmp_path / "results.jsonl").write_text("".join(canonical(seal(record)) + "\n" for record in records))
    with pytest.raises(ArtifactError, match=f"results.jsonl, line 2: .*{cause}"):
        results.read(tmp_path)
    (tmp_path / "results.jsonl").write_text(canonical(seal(json.loads(json.dumps(records[0])))) + "\n")
    assert results.read(tmp_path).results == [result(m, 0, 40.0)]
