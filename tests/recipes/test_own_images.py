"""Images of one's own: no path is stored, what a class has is used, defaults and errors that fit."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from test_artifact import forge
from test_matching import source

from ddhub.artifact import results
from ddhub.artifact.manifest import read_manifest
from ddhub.cli import app
from ddhub.errors import UsageError
from ddhub.io.private import told
from recipes import edf, nrr_dd
from recipes.__main__ import Method, group
from recipes.run.options import METHODS, configure, discover, introduction
from recipes.run.presets import Presets
from recipes.trajectories.initial import correct

ROOT = Path(__file__).parents[2]
RECIPES = discover()
MODES = ("RGB", "L", "P", "RGBA", "LA", "1")


@pytest.fixture(scope="module")
def flowers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of photos of many sizes and modes, 8 to train on and 4 to test."""
    top, random = tmp_path_factory.mktemp("me") / "flowers", np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 4)):
        for k, name in enumerate(("daisy", "rose", "tulip")):
            (top / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(0, 80, (40 + 3 * i, 60, 3), dtype=np.uint8) + np.uint8(60 * k)
                Image.fromarray(pixels).convert(MODES[i % 6]).save(top / split / name / f"{i}.png")
    (top / "train" / "rose" / "notes.txt").write_text("mine")
    return top


def run(*words: object) -> str:
    done = CliRunner().invoke(group(), [*map(str, words)], catch_exceptions=False)
    return done.output


SMALL = {
    "random-real": [],
    "infer": ["--preset", "smoke"],
    "nrr-dd": ["--preset", "smoke", "--mipc", 300, "--ipc", 2],
    "sre2l": ["--preset", "smoke"],
    "udd": ["--preset", "smoke"],
    "edf": ["--preset", "smoke"],
}


@pytest.mark.parametrize("name", SMALL)
def test_no_artifact_tells_where_the_images_lie(name: str, flowers: Path, tmp_path: Path) -> None:
    out = tmp_path / f"flowers-{name}"
    words = [name, out, "--dataset", f"folder:{flowers}", "--size", 32, *SMALL[name]]
    if name == "random-real":
        words += ["--ipc", 2]
    run(*words)
    m = read_manifest(out)
    assert (m.dataset, m.recipe["config"]["dataset"], m.source["name"]) == ("folder:flowers",) * 3
    written = [file for file in tmp_path.rglob("*") if file.suffix in (".json", ".jsonl", ".md")]
    assert written and all(not told(file.read_text()) for file in written)
    assert all(str(flowers.parent).encode() not in file.read_bytes() for file in out.rglob("*") if file.is_file())


def test_trained_students_cards_exports_and_pushes_tell_nothing_either(
    flowers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run("random-real", "flowers", "--dataset", f"folder:{flowers}", "--ipc", 2)
    assert read_manifest("flowers").image_size == (3, 32, 32)  # half of the images are smaller than 64 px

    def command(*words: str) -> Any:
        return CliRunner().invoke(app.cli, [*words])

    refused = command("train", "flowers")
    assert isinstance(refused.exception, UsageError) and "--test folder:PATH" in str(refused.exception)
    words = ["--model", "convnet3-w4", "--epochs", "1", "--record"]
    assert command("train", "flowers", "--test", f"folder:{flowers}", *words).exit_code == 0
    assert results.read("flowers").results[0].test_name == "folder:flowers"
    assert command("card", "flowers").exit_code == 0
    card = Path("flowers/README.md").read_text()
    assert 'test="folder:PATH"' in card and "--test folder:flowers" in card
    for to in ("imagefolder", "npz", "pt"):
        assert command("export", "flowers", to, "--to", to).exit_code == 0
    pushed = command("push", "flowers", "--to", "./public", "--accept-uncommitted")
    assert pushed.exit_code == 0, pushed.exception
    tops = [Path(top) for top in ("flowers", "imagefolder", "npz", "pt", "public")]
    for file in (x for top in tops for x in (top, *top.rglob("*")) if x.is_file()):
        assert not any(str(place).encode() in file.read_bytes() for place in (tmp_path, flowers.parent))
    # what was made before folders were left out: recorded again, as its digest is another one
    forge(Path("flowers"), lambda record: record["recipe"]["config"].update(dataset=f"folder:{flowers}"))
    for name in ("results.jsonl", "README.md"):
        Path("flowers", name).unlink()
    assert command("train", "flowers", "--test", f"folder:{flowers}", *words).exit_code == 0
    refused = command("push", "flowers", "--to", "./public", "--accept-uncommitted")
    assert "would be published" in str(refused.exception) and f"the path folder:{flowers}"[:30] in str(
        refused.exception
    )
    again = command("push", "flowers", "--to", "./public", "--accept-uncommitted", "--accept-private")
    assert again.exit_code == 0, again.exception


def test_what_is_searched_is_what_a_class_has() -> None:
    few = source(24)
    cfg = nrr_dd.Config(ipc=2)
    assert cfg.mipc == 300 and nrr_dd.suited(cfg, few).mipc == 24
    with pytest.raises(UsageError, match="patches a class, .* are needed"):
        nrr_dd.suited(nrr_dd.Config(ipc=200), few)


def test_images_that_no_expert_gets_right_join_where_too_few_are() -> None:
    few = source(24)
    never = [lambda rows: torch.tensor([0.0, 1.0, 0.0]).expand(len(rows), 3)]  # class 1 whatever it sees
    rows, logits = correct(few, never, 3, 0)
    assert few.labels[rows].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2] and len(set(rows.tolist())) == 9
    assert logits.argmax(1).tolist() == [1] * 9
    with pytest.raises(UsageError, match="lower --ipc"):
        correct(few, never, 100, 0)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_takes_a_size_and_quick(name: str) -> None:
    recipe = RECIPES[name]
    assert "size" in recipe.Config.__dataclass_fields__
    if name != "coreset":  # which looks for teachers that are at hand, and trains nothing
        assert isinstance(recipe.PRESETS, Presets) and recipe.PRESETS.own and recipe.PRESETS.quick
    own = configure(recipe, None, {"dataset": "folder:x"})
    quick = configure(recipe, None, {"dataset": "folder:x", "ipc": 3}, quick=True)
    assert (own.dataset, quick.dataset, quick.ipc) == ("folder:x", "folder:x", 3)
    lines = introduction(recipe, None, quick)
    assert lines[0] == "the method's defaults, but" and any("in place of cifar10" in line for line in lines[1:])
    assert all(len(re.findall("in place of", line)) == 1 for line in lines[1:])
    assert introduction(recipe, None, recipe.Config()) == ["the method's defaults"]


def test_own_settings_are_for_own_images_without_a_preset() -> None:
    assert configure(edf, None, {}).n_experts == 100
    assert configure(edf, None, {"dataset": "folder:x"}).n_experts == 10
    assert configure(edf, None, {"dataset": "folder:x", "n_experts": 7}).n_experts == 7
    assert configure(edf, "smoke", {"dataset": "folder:x"}).n_experts == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["infer", "OUT", "--preset", "smoke", "--until", "labls"], "unknown stage 'labls'; did you mean 'labels'"),
        (["infer", "OUT", "--preset", "smoke", "--protocol", "infer-statik"], "did you mean 'infer-static'"),
        (["infer", "OUT", "--preset", "smoke", "--teacher-protocol", "sqeeze"], "did you mean 'squeeze'"),
        (["udd", "OUT", "--preset", "smoke", "--proxy-protocol", "x"], "unknown protocol 'x'"),
        (["edf", "OUT", "--preset", "smoke", "--cam-protocol", "x"], "unknown protocol 'x'"),
        (["infer", "OUT", "--preset", "smoke", "--flip", ""], "--flip is ''; it must be true or false"),
        (["infer", "OUT", "--preset", "smoke", "--flip", "maybe"], "--flip is 'maybe'"),
        (["infer", "OUT", "--preset", "smoke", "--teachers", "convnet33"], "did you mean 'convnet3"),
        (["nrr-dd", "OUT", "--preset", "smoke", "--teacher", ""], "unknown model ''"),
        (["nrr-dd", "OUT", "--preset", "smoke", "--student-epochs", "2000000"], "epochs is 2000000"),
        (["infer", "OUT", "--dataset", "folder:nowhere"], "no folder 'nowhere'"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_computed(words: list[str], message: str, tmp_path: Path) -> None:
    out = tmp_path / "x"
    done = CliRunner().invoke(group(), [str(out) if word == "OUT" else word for word in words])
    assert message in str(done.exception), done.exception
    assert list(tmp_path.iterdir()) == []  # no stage has run


def test_teachers_need_test_images_and_say_so_first(flowers: Path, tmp_path: Path) -> None:
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "train").symlink_to(flowers / "train")
    words = ["infer", tmp_path / "x", "--preset", "smoke", "--dataset", f"folder:{tmp_path}/alone"]
    done = CliRunner().invoke(group(), [*map(str, words)])
    assert "has no test images" in str(done.exception) and not (tmp_path / "x.work").exists()


def options_of(command: Method) -> set[str]:
    return {text for option in command.params for text in option.opts if text.startswith("--")}


def closure(name: str) -> list[Path]:
    """The recipe's file and those of recipes/ that it imports, directly or not, but for what all recipes share."""
    seen: set[Path] = set()
    todo = [METHODS / f"{name.replace('-', '_')}.py"]
    while todo:
        path = todo.pop()
        seen.add(path)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("recipes."):
                file = ROOT / f"{(node.module or '').replace('.', '/')}.py"
                todo += [file] if file.exists() and file not in seen else []
    return sorted(seen)


@pytest.mark.parametrize("name", RECIPES)
def test_no_error_names_an_option_that_its_command_lacks(name: str) -> None:
    known = options_of(group().commands[name])  # type: ignore[arg-type]
    general = {"--nproc-per-node"}
    shared = ROOT / "ddhub" / "sources"
    for path in [*closure(name), *shared.glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Raise):
                words = [x.value for x in ast.walk(node) if isinstance(x, ast.Constant) and isinstance(x.value, str)]
                text = " ".join(words)
                named = set(re.findall(r"--[a-z][a-z-]*[a-z]", text))
                assert named <= known | general, (path.name, named - known)


def test_private_texts_are_found_and_folders_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from ddhub.io import private

    monkeypatch.setattr(private.platform, "node", lambda: "orchid.example.org")
    monkeypatch.setattr(private.getpass, "getuser", lambda: "mbernadette")
    for text in (
        "/home/me/flowers", "in /mnt/data/x.", "folder:/etc", "folder:~/x", "folder:a/b", "~/flowers", r"C:\\Users\\me",
        r"\\\\host\\share", "file:///home/me/x", "by mbernadette", "on Orchid, yesterday", '"path":"/srv/me/x"',
        "made in `/home/me/flowers`",
    ):  # fmt: skip
        assert told(text), text
    for text in (
        "folder:flowers", "https://example.org/a/b/c", "T-shirt/top", "cifar10/5000", "and/or", "a / b", "orchids",
        "ddhub push NAME --to ./FOLDER", "1/2/3", "s/epoch", "10.1/abc", "data/train-00000-of-00001.parquet",
    ):  # fmt: skip
        assert not told(text), text
    assert not told("lab of mbernadette/x", but=["mbernadette"])
    given = {"a": "folder:/x/flowers", "b": ["/x/t1", "convnet3", 3, None], "c": "cifar10/5000"}
    kept = {"a": "folder:flowers", "b": ["t1", "convnet3", 3, None], "c": "cifar10/5000"}
    assert private.without_folders(given) == kept
    assert private.without_folders("folder:~no-such-user/flowers") == "folder:flowers"
    for file in (ROOT / "cards").glob("*/*.*"):
        assert file.suffix not in (".json", ".jsonl", ".md") or not told(file.read_text()), file


def test_data_info_says_what_becomes_of_the_images(flowers: Path) -> None:
    done = CliRunner().invoke(app.cli, ["data", "info", f"folder:{flowers}"])
    said = {line.partition(":")[0]: line.partition(":")[2].strip() for line in done.output.splitlines()}
    assert said["classes"] == "daisy, rose, tulip" and said["splits"] == "train 24 images, test 12 images"
    assert said["images"].startswith("train daisy 8, rose 8, tulip 8")
    assert said["sizes"].startswith("60 x 40 px to 60 x 61 px, 8 different") and "32 x 32 px" in said["resized"]
    assert said["modes"].startswith("RGB") and "RGBA (laid on white)" in said["converted"]
    assert said["left out"] == "1 files that are not images: notes.txt"
    assert said["next"] == f"python -m recipes infer out/flowers --dataset folder:{flowers} --ipc 8 --quick"
    record = json.loads(CliRunner().invoke(app.cli, ["data", "info", f"folder:{flowers}", "--json"]).output)
    assert record["images"]["test"] == {"daisy": 4, "rose": 4, "tulip": 4} and record["cannot_be_read"] == []


def test_data_info_names_what_cannot_be_read_and_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "cat" / "0.png")
    said = CliRunner().invoke(app.cli, ["data", "info", f"folder:{tmp_path}"]).output
    assert f"put test images into {tmp_path}/test" in said
    (tmp_path / "cat" / "1.png").write_text("no image")
    Image.new("I;16", (8, 8)).save(tmp_path / "cat" / "2.png")
    said = CliRunner().invoke(app.cli, ["data", "info", f"folder:{tmp_path}"]).output
    assert "1.png: not an image" in said and "2.png: more than 8 bits a channel" in said
    assert "repair or remove the files" in said
