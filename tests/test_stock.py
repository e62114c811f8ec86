"""Names: folders, bundled artifacts, and what is neither; the lazy package; the bundled artifacts themselves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ddhub
from ddhub.artifact import bundled
from ddhub.artifact.folder import Artifact
from ddhub.artifact.manifest import seal_text
from ddhub.artifact.results import Entry, read
from ddhub.cards import card
from ddhub.errors import ArtifactError, UsageError
from ddhub.remote.find import resolve
from recipes.run.options import discover

ROOT = Path(__file__).parents[1]


def test_import_and_catalog_need_no_torch() -> None:
    code = "import sys, ddhub; print(list(ddhub.catalog())); assert 'torch' not in sys.modules; ddhub.train"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "cifar10-infer-ipc10" in done.stdout


def test_list_needs_neither_torch_nor_the_client_of_the_hub() -> None:
    code = "import sys; from ddhub.cli.app import cli; cli(['list'], standalone_mode=False); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    *shown, modules = done.stdout.splitlines()
    assert any("cifar10-infer-ipc10" in line.split() for line in shown)
    assert not {"torch", "huggingface_hub", "datasets", "pyarrow", "ddhub.remote.client"} & set(modules.split())


def test_public_names_are_functions_whatever_was_imported_before() -> None:
    assert set(ddhub.__all__) <= set(dir(ddhub))
    for name in ddhub.__all__:
        if name != "__version__":
            assert callable(getattr(ddhub, name))
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        _ = ddhub.lod


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        (
            "cifar10-infr-ipc10",
            UsageError,
            r"unknown artifact 'cifar10-infr-ipc10'; did you mean 'cifar10-infer-ipc10'",
        ),
        ("../artifacts", UsageError, "unknown artifact"),
        ("", ArtifactError, "is not an artifact: no manifest.json"),
    ],
)
def test_a_name_that_is_nothing_says_what_is_near(name: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        ddhub.load(name)


def test_a_file_and_an_empty_folder_are_no_artifacts(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(b"")
    with pytest.raises(ArtifactError, match="is a file, not an artifact's folder"):
        ddhub.load(tmp_path / "x.pt")
    with pytest.raises(ArtifactError, match=r"is not an artifact: no manifest\.json"):
        ddhub.load(tmp_path)


def kept() -> list[Entry]:
    """Artifacts that are not bundled, as `cards/` keeps them: manifests and results."""
    return [read(path.parent) for path in sorted((ROOT / "cards").glob("*/manifest.json"))]


@pytest.mark.parametrize("name", bundled.catalog())
def test_bundled_artifact_is_sound_and_loads(name: str) -> None:
    artifact = Artifact.open(resolve(name))
    data = ddhub.load(name)
    manifest = artifact.manifest
    assert manifest.name == name == data.about.name
    x, y = next(data.batches(0))
    classes = len(manifest.classes)
    assert x.shape[1:] == manifest.image_size
    assert y.shape == (len(x), 5 if manifest.labels["kind"] == "dbr" else classes)  # two classes, weight, two distances
    assert bool(torch.isfinite(data.loss(torch.zeros(len(x), classes), y)))
    config = discover()[Path(manifest.recipe["path"]).stem.replace("_", "-")].Config  # RDED is a preset of another
    assert set(manifest.recipe["config"]) <= set(config.__dataclass_fields__)


@pytest.mark.parametrize("name", bundled.catalog())
def test_bundled_cards_are_what_the_manifests_and_results_say(name: str) -> None:
    entries = [read(bundled.BUNDLED / other) for other in bundled.catalog()] + kept()
    text = card.render(read(bundled.BUNDLED / name), entries)
    assert (bundled.BUNDLED / name / "README.md").read_text() == seal_text(text)
    assert (ROOT / "cards" / name / "README.md").read_text() == seal_text(text)
    assert (ROOT / "cards" / "README.md").read_text() == card.leaderboard(entries)


def test_cards_of_artifacts_that_are_not_bundled_are_what_their_manifests_and_results_say() -> None:
    entries = [read(bundled.BUNDLED / other) for other in bundled.catalog()] + kept()
    assert len(kept()) > 20 and not {x.manifest.name for x in kept()} & {*bundled.catalog()}
    for entry in kept():
        text = (ROOT / "cards" / entry.manifest.name / "README.md").read_text()
        assert text == seal_text(card.render(entry, entries))


def test_the_artifacts_of_the_readme_show_the_recorded_numbers() -> None:
    readme = (ROOT / "README.md").read_text()
    for name in bundled.catalog():
        entry = read(bundled.BUNDLED / name)
        line = next(line for line in readme.splitlines() if line.startswith(f"| [{name}]"))
        assert f"{entry.bytes:,}" in line
        assert all(mean.text in line for mean in entry.means() if mean.first.protocol == "infer-static-50")
        assert {len(mean.runs) for mean in entry.means()} == {3}


def test_the_readmes_tables_of_stored_labels_show_the_recorded_numbers() -> None:
    readme = (ROOT / "README.md").read_text()
    entries = [read(bundled.BUNDLED / other) for other in bundled.catalog()] + kept()
    found = [mean for entry in entries for mean in entry.means() if mean.first.protocol.startswith("nrr-dd")]
    assert len(found) == 46 and {len(mean.runs) for mean in found} == {3}
    said = {mean.first.artifact for mean in found if mean.text in readme}
    assert {mean.first.artifact for mean in found} - said == {f"{x}-kd" for x in (
        "cifar10-nrr-dd-ipc10", "imagenette-nrr-dd-ipc1")}  # fmt: skip


def test_the_readmes_tables_of_regions_show_the_recorded_numbers() -> None:
    readme = (ROOT / "README.md").read_text().partition("### Regions beside the tiles")[2].partition("\n## ")[0]
    entries = [read(bundled.BUNDLED / other) for other in bundled.catalog()] + kept()
    found = [(x, mean) for x in entries for mean in x.means() if mean.first.protocol.startswith("idc")]
    assert len(found) == 15 and {len(mean.runs) for _, mean in found} == {3}
    for entry, mean in found:
        line = next(line for line in readme.splitlines() if f"| {mean.text} |" in line)
        assert f"{entry.bytes:,}" in line
        measured = entry.manifest.recipe["run"].get("measured")
        assert not measured or f"| {measured['mUE']:.3f} |" in line


def test_the_readmes_tables_of_trajectories_show_the_recorded_numbers() -> None:
    readme = (ROOT / "README.md").read_text().partition("### Trajectories without")[2].partition("\n## ")[0]
    entries = [read(bundled.BUNDLED / other) for other in bundled.catalog()] + kept()
    named = ("datm+epochs=300", "edf+epochs=300")
    found = [(x, mean) for x in entries for mean in x.means() if mean.first.protocol in named]
    assert len(found) == 20 and {len(mean.runs) for _, mean in found} == {3}
    for entry, mean in found:
        assert any(f"| {entry.bytes:,} |" in line and f"| {mean.text} |" in line for line in readme.splitlines())


def test_infer_beats_random_at_the_same_bytes_under_one_protocol() -> None:
    infer, random = (read(bundled.BUNDLED / f"cifar10-{name}-ipc10") for name in ("infer", "random"))
    assert infer.bytes == pytest.approx(random.bytes, rel=0.01)
    ours, theirs = ({(*m.setting, m.first.model): m.mean for m in entry.means()} for entry in (infer, random))
    assert ours.keys() <= theirs.keys() and len(ours) == 2
    assert all(ours[key] > theirs[key] for key in ours)
