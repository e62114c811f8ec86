"""Names: folders, bundled artifacts, and what is neither; the lazy package; the bundled artifacts themselves."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ddhub
from ddhub import teachers
from ddhub.artifact import bundled
from ddhub.artifact.folder import Artifact
from ddhub.artifact.manifest import MANIFEST, README, RESULTS, seal_text
from ddhub.artifact.results import Entry, read
from ddhub.cards import card
from ddhub.cards.comparison import BASELINE
from ddhub.cards.ranking import rankings
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
        ("../artifacts", UsageError, "no such folder"),
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


def entries() -> list[Entry]:
    """All bundled artifacts: also those of which manifest, results and card alone are kept."""
    return list(bundled.at_hand().values())


def raw_bytes(entry: Entry) -> str:
    """Bytes of an artifact's tensors before encoding, as tables show them."""
    return f"{sum(entry.manifest.bytes_by_tensor().values()):,}"


def cells(text: str) -> list[list[str]]:
    """The cells of every row of every table of a Markdown text."""
    return [[x.strip() for x in line[1:-1].split("|")] for line in text.splitlines() if line.startswith("|")]


def studies(start: str) -> str:
    """One section of `cards/studies.md`."""
    (section,) = [x for x in (ROOT / "cards/studies.md").read_text().split("\n## ") if x.startswith(f"{start}\n")]
    return section


def sha256(tensor: torch.Tensor) -> str:
    """A tensor's content, shape and type as `stock.json` has them."""
    data = tensor.detach().contiguous().numpy().tobytes()
    return f"{hashlib.sha256(data).hexdigest()}{tuple(tensor.shape)}{tensor.dtype}"


@pytest.mark.parametrize("name", bundled.names())
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


@pytest.mark.parametrize("name", bundled.names())
def test_bundled_data_are_what_they_were(name: str) -> None:
    """Pixels, labels and first batches, bit for bit: `stock.json` has them as they were before anything moved."""
    known = json.loads((ROOT / "tests/stock.json").read_text())
    assert known.keys() == {*bundled.names()} and torch.get_num_threads() == 1
    data = ddhub.load(name)
    own = {} if data._own_labels.kind == "teacher" else data._own_labels.state_dict()
    found = {
        "n": len(data),
        "images": sha256(torch.cat([data.decoder(i) for i in torch.arange(len(data)).split(256)])),
        "stored": sha256(data.decoder.images),
        "labels": {key: sha256(value) for key, value in own.items()},
    }
    for seed in (0, 1):
        x, y = next(iter(data.batches(seed)))
        found |= {f"x{seed}": sha256(x), f"y{seed}": sha256(y)}
    assert found == known[name]


def test_artifacts_without_data_are_variants_of_which_the_results_are_kept() -> None:
    found = {entry.manifest.name: entry for entry in entries()}
    assert {name for name, entry in found.items() if entry.kept} == {*bundled.names()} == {*bundled.catalog()}
    without = [entry for entry in found.values() if not entry.kept]
    assert len(without) > 20 and all(entry.results for entry in without)
    for entry in without:
        files = {path.name for path in (bundled.BUNDLED / entry.manifest.name).rglob("*")}
        assert files == {MANIFEST, RESULTS, README}


def test_an_artifact_without_data_is_found_only_by_who_needs_none() -> None:
    name = "cifar10-infer-ipc10-hard-labels"
    assert resolve(name, whole=False) == bundled.BUNDLED / name
    with pytest.raises(
        ArtifactError, match=rf"^{name}: its data are not kept here, only its results; make it again by"
    ):
        resolve(name)
    with pytest.raises(ArtifactError, match="its data are not kept here"):
        ddhub.load(name)
    assert bundled.BUNDLED / name in bundled.at_hand() and bundled.BUNDLED / name not in bundled.at_hand(data=True)
    assert name not in bundled.names() and name not in ddhub.catalog()


def test_every_card_is_what_manifests_and_results_say() -> None:
    known, folders = entries(), {path.name for path in (ROOT / "cards").iterdir() if path.is_dir()}
    assert folders == {entry.manifest.name for entry in known} | teachers.catalog().keys()
    for entry in known:
        text = (ROOT / "cards" / entry.manifest.name / "README.md").read_text()
        assert text == seal_text(card.render(entry, known)), f"ddhub card --all renders {entry.manifest.name}"
    assert (ROOT / "cards/README.md").read_text() == card.leaderboard(known), "ddhub card --all renders it"


def tracked() -> list[Path]:
    """The files that git tracks."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("no checkout: only git says which files are tracked")
    done = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, cwd=ROOT, check=True)
    return [path for path in (ROOT / name for name in done.stdout.split("\0") if name) if path.is_file()]


def test_no_two_tracked_files_are_the_same() -> None:
    groups: dict[str, list[str]] = {}
    for path in tracked():
        if path.stat().st_size > 1000:
            groups.setdefault(hashlib.sha256(path.read_bytes()).hexdigest(), []).append(str(path.relative_to(ROOT)))
    assert len(groups) > 300 and [names for names in groups.values() if len(names) > 1] == []


def test_tracked_files_are_25_megabytes_at_most() -> None:
    assert sum(path.stat().st_size for path in tracked()) <= 25_000_000


def test_the_readme_is_one_page() -> None:
    assert (ROOT / "README.md").stat().st_size <= 12_000


def test_the_readmes_best_artifacts_are_ranked_first_and_show_the_recorded_numbers() -> None:
    section = (ROOT / "README.md").read_text().partition("## The best artifacts")[2].partition("\n## ")[0]
    head, _, *rows = cells(section)
    assert head[3:] == ["stored bytes", "accuracy %", "random selection", "student, protocol"]
    lists = rankings(bundled.at_hand(data=True).values())
    lists = [x for x in lists if any(one.entry.manifest.method == BASELINE for one in x)]  # coresets are their own
    assert len(rows) == len(lists) == 4  # a row for each data set and ipc, in this order
    for shown, ranked in zip(rows, lists, strict=True):
        best, (random,) = ranked[0], [x for x in ranked if x.entry.manifest.method == BASELINE]
        assert (best.rank, best.mean is None, random.mean is None) == (1, False, False)
        assert best.mean and random.mean and best.mean.setting == random.mean.setting
        m = best.entry.manifest
        assert shown == [
            *(m.dataset, str(m.ipc), f"[{m.name}](cards/{m.name}/README.md)", f"{best.entry.bytes:,}"),
            *(best.mean.text, random.mean.text, f"{best.mean.first.model}, {best.mean.first.protocol}"),
        ]
        assert best.mean.first.model == random.mean.first.model
        assert len(best.mean.runs) == len(random.mean.runs) == 3


def test_bundled_artifacts_have_three_seeds_of_each_result() -> None:
    assert {len(mean.runs) for entry in entries() for mean in entry.means()} == {3}


def test_the_studies_table_of_infers_parts_shows_the_recorded_numbers() -> None:
    known = {entry.manifest.name: entry for entry in entries()}
    linked = re.compile(r"\[.*\]\((.*)/README\.md\)")
    rows = [row for row in cells(studies("What INFER's compensators add")) if linked.fullmatch(row[0])]
    assert len(rows) == 7
    for link, accuracy in rows:
        (name,) = linked.fullmatch(link).groups()  # type: ignore[union-attr]
        found = [x for x in known[name].means() if (x.first.protocol, x.first.model) == ("infer-static-50", "convnet3")]
        assert [mean.text for mean in found] == [accuracy], name


def test_the_studies_tables_of_stored_labels_show_the_recorded_numbers() -> None:
    text = studies("Two numbers in place of a label")
    found = [mean for entry in entries() for mean in entry.means() if mean.first.protocol.startswith("nrr-dd")]
    assert len(found) == 46 and {len(mean.runs) for mean in found} == {3}
    flat = text.replace(" %", "")
    said = {mean.first.artifact for mean in found if mean.text in flat}
    assert {mean.first.artifact for mean in found} - said == {f"{x}-kd" for x in (
        "cifar10-nrr-dd-ipc10", "imagenette-nrr-dd-ipc1")}  # fmt: skip


def test_the_studies_tables_of_regions_show_the_recorded_numbers() -> None:
    rows = cells(studies("Regions beside the tiles"))
    assert sum(row[:2] == ["", "raw bytes"] for row in rows) == 2
    found = [(x, mean) for x in entries() for mean in x.means() if mean.first.protocol.startswith("idc")]
    assert len(found) == 18 and {len(mean.runs) for _, mean in found} == {3}
    for entry, mean in found:
        (row,) = [row for row in rows if mean.text in row]
        assert row[1] == raw_bytes(entry)
        measured = entry.manifest.recipe["run"].get("measured")
        assert not measured or row[-1] == f"{measured['mUE']:.3f}"


def test_the_studies_tables_of_trajectories_show_the_recorded_numbers() -> None:
    rows = cells(studies("Trajectories without common patterns"))
    assert sum(row[:2] == ["", "raw bytes"] for row in rows) == 3
    named = ("datm+epochs=300", "edf+epochs=300")
    found = [(x, mean) for x in entries() for mean in x.means() if mean.first.protocol in named]
    assert len(found) == 20 and {len(mean.runs) for _, mean in found} == {3}
    for entry, mean in found:
        assert any(row[1] == raw_bytes(entry) and mean.text in row for row in rows)


def test_infer_beats_random_at_the_same_raw_bytes_under_one_protocol() -> None:
    infer, random = (read(bundled.BUNDLED / f"cifar10-{name}-ipc10") for name in ("infer", "random"))
    raw = [sum(entry.manifest.bytes_by_tensor().values()) for entry in (infer, random)]
    assert raw[0] == pytest.approx(raw[1], rel=0.01)
    ours, theirs = ({(*m.setting, m.first.model): m.mean for m in entry.means()} for entry in (infer, random))
    assert ours.keys() <= theirs.keys() and len(ours) == 2
    assert all(ours[key] > theirs[key] for key in ours)


def test_the_command_on_every_card_is_a_method_with_that_preset() -> None:
    for entry in bundled.at_hand().values():
        recipe = entry.manifest.recipe
        method = discover()[Path(recipe["path"]).stem.replace("_", "-")]
        assert recipe["preset"] is None or recipe["preset"] in {*method.PRESETS, "smoke"}, entry.manifest.name
