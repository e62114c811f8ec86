"""Teachers: every byte checked, found by name and id, asked by artifacts and protocols, made by recipes."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_data import make

import ddhub
from ddhub import models, teachers
from ddhub.artifact import bundled
from ddhub.artifact.folder import Artifact
from ddhub.artifact.manifest import Manifest, canonical
from ddhub.data import labels
from ddhub.errors import ArtifactError, SourceError, UsageError
from ddhub.protocols.protocol import Protocol
from ddhub.sources import source as sources
from ddhub.training.batches import DistilledData
from recipes.run.options import discover
from recipes.run.run import Run
from recipes.run.teachers import publish, real_data
from recipes.run.teachers import teachers as make_teachers

CLASSES = ("a", "b", "c")
FACTS: dict[str, Any] = {
    "model": "convnet3-bn-w8",
    "dataset": "test",
    "classes": CLASSES,
    "image_size": (3, 8, 8),
    "mean": (0.4, 0.5, 0.6),
    "std": (0.2, 0.25, 0.3),
    "accuracy": 61.25,
    "test": {"name": "test", "label": "Test", "images": 100, "fingerprint": "00"},
    "protocol": Protocol(epochs=4).to_json(),
    "epochs": 4,
    "seed": 0,
    "source": {"name": "test", "hub_id": "a/b", "split": "train", "fingerprint": "00", "notes": "", "license": "mit"},
    "license": "mit",
    "run": {"device": "cpu", "seconds": 1.5},
}


def net(seed: int = 0) -> torch.nn.Module:
    """A teacher of three classes whose running statistics are not the initial ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = models.build("convnet3-bn-w8", classes=3, size=8)
        made(torch.randn(16, 3, 8, 8))
    return made.eval()


def with_ids(entries: list[dict[str, str]] | None, **more: Any) -> dict[str, Any]:
    found = {} if entries is None else {"teachers": entries}
    return {"kind": "teacher", "temperature": 4.0, **found, **more}


def artifact(folder: Path, scheme: dict[str, Any], plan: Protocol) -> Path:
    """Six images of 8 x 8 pixels of the three classes."""
    manifest = Manifest(
        name=folder.name, method="x", dataset="test", ipc=2, classes=CLASSES, image_size=(3, 8, 8),
        mean=FACTS["mean"], std=FACTS["std"], pixel_range=((0.0, 1.0),) * 3, encoding={"codec": "png"},
        decoder={"kind": "identity"}, labels=scheme, protocol=plan.to_json(),
        recipe={"repository": "x", "path": "x.py", "commit": "", "modules": {}, "preset": None, "config": {}, "seed": 0,
                "run": {}},
        source=FACTS["source"], teachers=[], license="mit", citation="", deviations=[], paper=[], tensors={},
        content="", files={},
    )  # fmt: skip
    images = torch.randint(256, (6, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    rows = torch.arange(6) // 2
    Artifact.write(folder, manifest=manifest, images=images, image_labels=rows, tensors={})
    return folder


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    made, before = net(), torch.random.get_rng_state()
    digest = teachers.write(tmp_path / "test-net", made, **FACTS)
    found, facts = teachers.open_teacher(tmp_path / "test-net")
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(made.state_dict().values(), found.state_dict().values(), strict=True))
    assert not found.training and not any(parameter.requires_grad for parameter in found.parameters())
    assert facts == {
        **json.loads(json.dumps(FACTS)), "format": 1, "name": "test-net", "files": facts["files"], "digest": digest
    }  # fmt: skip
    assert len(digest) == 64 and sorted(path.name for path in tmp_path.glob("test-net/*")) == [
        "teacher.json",
        "weights.safetensors",
    ]


def test_digest_is_of_the_content_and_not_of_the_run(tmp_path: Path) -> None:
    first = teachers.write(tmp_path / "a/t", net(), **FACTS)
    assert first == teachers.write(tmp_path / "b/t", net(), **{**FACTS, "run": {"device": "gpu"}})
    assert first != teachers.write(tmp_path / "c/t", net(), **{**FACTS, "accuracy": 61.5})
    assert first != teachers.write(tmp_path / "d/t", net(1), **FACTS)
    assert first != teachers.write(tmp_path / "e/u", net(), **FACTS)


def test_no_changed_byte_goes_unseen(tmp_path: Path) -> None:
    folder, choose = tmp_path / "t", random.Random(0)
    teachers.write(folder, net(), **FACTS)
    facts, weights = folder / teachers.TEACHER, folder / teachers.WEIGHTS
    for path, count in ((facts, None), (weights, 60)):
        whole = path.read_bytes()
        places = range(len(whole)) if count is None else choose.sample(range(len(whole)), count)
        changed = [whole[:i] + bytes([whole[i] ^ 1 << choose.randrange(8)]) + whole[i + 1 :] for i in places]
        for data in [*changed, whole[:-1], whole + b"\n", b""]:
            path.write_bytes(data)
            with pytest.raises(ArtifactError) as caught:
                teachers.verify(folder)
            assert str(path) in str(caught.value) and "\n" not in str(caught.value)
        path.write_bytes(whole)
    teachers.verify(folder)
    weights.unlink()
    with pytest.raises(ArtifactError, match="weights.safetensors: missing"):
        teachers.open_teacher(folder)


def test_a_teacher_is_never_replaced_by_another(tmp_path: Path) -> None:
    digest = teachers.write(tmp_path / "t", net(), **FACTS)
    before = (tmp_path / "t" / teachers.TEACHER).stat()
    assert teachers.write(tmp_path / "t", net(), **{**FACTS, "run": {}}) == digest
    after = (tmp_path / "t" / teachers.TEACHER).stat()  # read again, not written
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    with pytest.raises(UsageError, match="not overwritten, it holds another teacher; move it away"):
        teachers.write(tmp_path / "t", net(1), **FACTS)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    with pytest.raises(UsageError, match="not overwritten, it holds something else"):
        teachers.write(tmp_path / "mine", net(), **FACTS)
    (tmp_path / "empty").mkdir()
    teachers.write(tmp_path / "empty", net(), **FACTS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accuracy": 101}, "'accuracy' must be percent"),
        ({"classes": ()}, "'classes' must be 1 to 65536 distinct names"),
        ({"test": {"name": "x"}}, "'test' must be an object of name, label, images, fingerprint"),
        ({"test": []}, "'test' must be"),
        ({"speed": 1}, "unknown fact 'speed'"),
        ({"epochs": -1}, "'epochs' must be a whole number, 0 or more"),
        ({"model": "convnet3-bn-w4"}, "not the weights of 'convnet3-bn-w4'"),
        ({"model": "convnet3-bn-w8", "classes": ("a", "b")}, "not the weights of 'convnet3-bn-w8'"),
        ({"run": {"seconds": float("nan")}}, "not writable as JSON"),
    ],
)
def test_facts_that_are_wrong_write_nothing(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        teachers.write(tmp_path / "t", net(), **{**FACTS, **changes})
    with pytest.raises(ArtifactError, match="missing fact 'seed'"):
        teachers.write(tmp_path / "t", net(), **{key: value for key, value in FACTS.items() if key != "seed"})
    assert not list(tmp_path.iterdir())


def test_a_newer_format_asks_for_a_newer_ddhub(tmp_path: Path) -> None:
    (tmp_path / teachers.TEACHER).write_text(canonical({"format": 2}))
    with pytest.raises(ArtifactError, match=r"needs a newer ddhub \(format 2\)"):
        teachers.read(tmp_path)


def test_names_lead_to_folders_near_ones_and_bundled_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundled, "BUNDLED", tmp_path / "bundled")
    monkeypatch.chdir(tmp_path)
    ours = teachers.write(tmp_path / "bundled" / "t", net(), **FACTS)
    theirs = teachers.write(tmp_path / "near" / "t", net(1), **FACTS)
    assert teachers.resolve("t") == tmp_path / "bundled" / "t"
    assert teachers.resolve("t", near=tmp_path / "near") == tmp_path / "near" / "t"
    assert teachers.resolve(f"t@{ours[:12]}", near=tmp_path / "near") == tmp_path / "bundled" / "t"
    assert teachers.open_teacher(f"t@{theirs}", near=tmp_path / "near")[1]["digest"] == theirs
    assert list(teachers.catalog()) == ["t"]
    with pytest.raises(ArtifactError, match=rf"its digest is {ours[:12]}, not {theirs[:12]}"):
        teachers.resolve(f"t@{theirs}")
    with pytest.raises(UsageError, match=r"unknown teacher 'tt'; did you mean 't'\?"):
        teachers.resolve("tt")
    with pytest.raises(UsageError, match="unknown teacher 'bundled'"):
        teachers.resolve("bundled")


def test_identify_gives_the_id_that_leads_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teachers, "_identified", {})
    monkeypatch.chdir(tmp_path)
    digest = teachers.write(tmp_path / "deep" / "down" / "t", net(), **FACTS)
    with pytest.raises(UsageError, match="unknown teacher"):
        teachers.resolve(f"t@{digest[:12]}")
    known = teachers.identify("deep/down/t")
    assert known == f"t@{digest[:12]}"
    monkeypatch.chdir("/")
    assert teachers.open_teacher(known)[1]["digest"] == digest
    assert teachers.identify(known) == known


def test_facts_need_no_torch(tmp_path: Path) -> None:
    teachers.write(tmp_path / "t", net(), **FACTS)
    code = "import sys; from ddhub.teachers import verify; verify(sys.argv[1]); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "t")], check=True)


def test_an_artifact_finds_its_teachers_beside_it(tmp_path: Path) -> None:
    digest = teachers.write(tmp_path / "out" / "t", net(), **FACTS)
    entries = [{"name": "t", "digest": digest}]
    folder = artifact(tmp_path / "out" / "x", with_ids(entries, lr=0.03), Protocol(epochs=1, batch_size=3))
    shutil.move(tmp_path / "out", tmp_path / "elsewhere")  # together
    folder = tmp_path / "elsewhere" / "x"
    data = ddhub.load(folder)
    assert data.about.lr == 0.03 and data.labels.kind == "teacher"
    for x, y in data.batches(0):
        torch.testing.assert_close(y, net()(x).detach())
    other = ddhub.load(folder, teachers=[net(1)])
    for x, y in other.batches(0):
        torch.testing.assert_close(y, net(1)(x).detach())
    shutil.rmtree(tmp_path / "elsewhere" / "t")
    ddhub.load(folder, teachers=[net(1)])
    with pytest.raises(UsageError, match="unknown teacher 't'.*lies beside its artifact"):
        ddhub.load(folder)
    teachers.write(tmp_path / "elsewhere" / "t", net(2), **FACTS)
    with pytest.raises(ArtifactError, match="its digest is"):
        ddhub.load(folder)


@pytest.mark.parametrize(
    ("scheme", "message"),
    [
        (with_ids([{"name": "t"}]), "teachers are not objects of name and digest"),
        (with_ids(None), "need their nets: ddhub.load"),
        (with_ids([{"name": "t", "digest": ""}]), "teacher 't@' is not an id NAME@DIGEST"),
        (with_ids([{"name": "out/t", "digest": "DIGEST"}]), "unknown teacher 'out/t'"),
        (with_ids([{"name": "t", "digest": "DIGEST"}], lr=-1), "its learned rate is -1, not a number above 0"),
    ],
)
def test_labels_that_name_no_teacher_say_why(
    scheme: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    digest = teachers.write(tmp_path / "out" / "t", net(), **FACTS)
    scheme = json.loads(json.dumps(scheme).replace("DIGEST", digest))
    with pytest.raises((ArtifactError, UsageError), match=message):
        ddhub.load(artifact(tmp_path / "x", scheme, Protocol()))


@pytest.mark.parametrize(
    ("key", "value"),
    [("classes", ("a", "c", "b")), ("mean", (0.5, 0.5, 0.5)), ("std", (0.2, 0.2, 0.2)), ("image_size", (3, 9, 9))],
)
def test_a_teacher_of_other_data_is_refused(key: str, value: tuple[Any, ...], tmp_path: Path) -> None:
    teachers.write(tmp_path / "t", net(), **{**FACTS, key: value})
    plan = Protocol(teachers=(teachers.identify(tmp_path / "t"),))
    with pytest.raises(ArtifactError, match=f"another {key} than 'test'; name a teacher of cifar10-mini"):
        make(plan.augment).using(protocol=plan)


def test_a_protocol_that_names_teachers_asks_them_and_the_next_one_does_not(tmp_path: Path) -> None:
    teachers.write(tmp_path / "t", net(), **FACTS)
    soft = make(Protocol().augment)
    base = Protocol(epochs=1, batch_size=16)
    plan = replace(base, teachers=(teachers.identify(tmp_path / "t"),), temperature=7.0)
    taught = soft.using(protocol=plan)
    x, y = next(taught.batches(0))
    torch.testing.assert_close(y, net()(x).detach())
    assert isinstance(taught.labels, labels.Teacher) and taught.labels.temperature == 7.0
    assert soft.using(protocol=replace(plan, temperature=None)).labels.temperature == 1.0
    assert taught.using(protocol=base).labels.kind == soft.labels.kind == "soft"
    quirk = taught.using(protocol=replace(plan, teacher_batch_stats=True))
    x, z = next(quirk.batches(0))
    torch.testing.assert_close(z, net().train()(x).detach())
    assert not torch.allclose(y, z)
    own = soft.using(labels=labels.Teacher([net()], 2.0), protocol=replace(base, teacher_batch_stats=True))
    torch.testing.assert_close(next(own.batches(0))[1], z)
    torch.testing.assert_close(next(own.using(protocol=base).batches(0))[1], y)


def test_a_recommended_protocol_with_teachers_and_one_for_training(tmp_path: Path) -> None:
    teachers.write(tmp_path / "t", net(), **FACTS)
    known = teachers.identify(tmp_path / "t")
    folder = artifact(tmp_path / "x", {"kind": "hard"}, Protocol(epochs=1, batch_size=6, teachers=(known,)))
    loaded = ddhub.load(folder)
    assert loaded.labels.kind == "teacher"
    source = sources.open_source("cifar10-mini", "test", size=8)
    test = replace(source, classes=CLASSES, labels=source.labels % 3)
    plain = artifact(tmp_path / "y", {"kind": "hard"}, Protocol(epochs=1, batch_size=6))
    plan = replace(ddhub.load(plain).protocol, teachers=(known,))
    first, a = ddhub.train(loaded, "convnet3-w8", test=test, progress=False)
    second, b = ddhub.train(ddhub.load(plain), "convnet3-w8", protocol=plan, test=test, progress=False)
    third, c = ddhub.train(ddhub.load(plain), "convnet3-w8", test=test, progress=False)
    assert torch.equal(first.head.weight, second.head.weight) and a.protocol_digest == b.protocol_digest
    assert not torch.equal(first.head.weight, third.head.weight) and a.protocol_digest != c.protocol_digest


def test_moving_data_moves_the_artifacts_labels_and_the_teachers(tmp_path: Path) -> None:
    teachers.write(tmp_path / "t", net(), **FACTS)
    plan = Protocol(teachers=(teachers.identify(tmp_path / "t"),))
    data = make(plan.augment).using(protocol=plan).to("meta")
    places = {p.device.type for p in data.labels.parameters()} | {
        data.using(protocol=Protocol()).labels.logits.device.type
    }
    assert places == {"meta"}


# Recipes


def run_at(out: Path, **changes: Any) -> tuple[Run, sources.Source]:
    recipe = discover()["infer"]
    run = Run(recipe, replace(recipe.SMOKE, **changes), out, device="cpu", precision="fp32")
    return run, run.source("cifar10-mini", "train")


def few(source: sources.Source) -> sources.Source:
    return replace(source, images=source.images[:64], labels=source.labels[:64])


def test_teachers_of_a_recipe_are_published_beside_the_artifact(tmp_path: Path) -> None:
    run, source = run_at(tmp_path / "x")
    names = ("convnet3-bn-w4", "convnet4-bn-w4")
    nets, facts = make_teachers(run, few(source), names, 1, 3)
    assert facts[0] == {
        "model": "convnet3-bn-w4", "accuracy": facts[0]["accuracy"], "epochs": 1, "protocol": "squeeze+epochs=1",
        "seed": 3,
    }  # fmt: skip
    found = publish(run, source, nets, facts)
    assert [entry["name"] for entry in found] == [f"cifar10-mini-{name}-e1-s3" for name in names]
    back, record = teachers.open_teacher(f"{found[1]['name']}@{found[1]['digest']}", near=tmp_path)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(back(x), nets[1](x))
    assert record["accuracy"] == facts[1]["accuracy"]
    assert record["accuracy"] == pytest.approx(ddhub.evaluate(back, "cifar10-mini", precision="fp32"))
    assert record["protocol"]["epochs"] == 1 and record["run"]["seconds"] > 0 and record["test"]["images"] == 1000
    again = publish(run, source, nets, facts)
    assert again == found
    with pytest.raises(UsageError, match="not overwritten, it holds another teacher"):
        publish(run, source, nets[::-1], [facts[0] | {"accuracy": 1.0}])
    # the stages are there: nothing is trained again
    resumed, _ = make_teachers(run, few(source), names, 1, 3)
    assert torch.equal(resumed[0].head.weight, nets[0].head.weight)


def test_stage_keys_of_teachers_are_those_of_the_first_artifacts(tmp_path: Path) -> None:
    run, source = run_at(tmp_path / "x")
    make_teachers(run, few(source), ("convnet3-bn-w4",), 1, 0)
    plan = ddhub.protocol("squeeze", epochs=1)
    path = run.path("teacher-convnet3-bn-w4", {"model": "convnet3-bn-w4", "seed": 0, "protocol": plan.to_json()})
    assert [*run.work.glob("*.safetensors")] == [path]


def test_teachers_follow_the_protocol_they_are_given(tmp_path: Path) -> None:
    run, source = run_at(tmp_path / "x")
    _, facts = make_teachers(run, few(source), ("convnet3-bn-w4",), 6, 0, protocol="squeeze-tiny")
    assert facts[0]["protocol"] == "squeeze-tiny+epochs=6"


def test_no_test_images_end_the_run_before_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, source = run_at(tmp_path / "x")
    monkeypatch.setattr("recipes.run.teachers.fit", lambda *_: pytest.fail("trained"))
    with pytest.raises((SourceError, UsageError)):
        make_teachers(run, replace(few(source), address="folder:/nowhere"), ("convnet3-bn-w4",), 1, 0)


def imported_timm() -> Any:
    from tools import torchvision_stub  # noqa: F401  first: timm imports torchvision, which may need its help

    return pytest.importorskip("timm")


def config(**changes: Any) -> SimpleNamespace:
    """What timm says of weights for the ten classes of the embedded images."""
    return SimpleNamespace(**{
        "hf_hub_id": "timm/resnet18.x", "architecture": "resnet18", "tag": "x", "num_classes": 10,
        "mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010), "license": "bsd-3-clause", **changes,
    })  # fmt: skip


def test_pretrained_teachers_are_scored_and_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timm = imported_timm()
    asked, create = [], timm.create_model

    def pretrained(name: str, pretrained: bool, in_chans: int = 3, num_classes: int = 10) -> torch.nn.Module:
        asked.append((name, pretrained))
        torch.manual_seed(5)
        return create("test_resnet", pretrained=False, in_chans=in_chans, num_classes=num_classes)

    monkeypatch.setattr(timm, "create_model", pretrained)
    monkeypatch.setattr(timm.models, "get_pretrained_cfg", lambda name: config())
    monkeypatch.setattr(models, "build", lambda name, **_: pretrained(name, False))
    run, source = run_at(tmp_path / "x")
    test = sources.open_source("cifar10-mini", "test")
    monkeypatch.setattr(run, "source", lambda *_: replace(test, images=test.images[:50], labels=test.labels[:50]))
    nets, facts = make_teachers(run, source, ("timm:resnet18",), 0, 0)
    assert ("resnet18.x", True) in asked
    assert facts == [
        {"model": "timm:resnet18.x", "accuracy": facts[0]["accuracy"], "epochs": 0, "protocol": "pretrained", "seed": 0}
    ]
    (entry,) = publish(run, source, nets, facts)
    record = teachers.read(tmp_path / entry["name"])
    assert entry["name"] == "cifar10-mini-timm-resnet18.x-pretrained" and record["license"] == "bsd-3-clause"
    assert record["source"]["notes"] == "weights timm/resnet18.x" and record["protocol"] == {}


def test_pretrained_weights_that_do_not_fit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timm = imported_timm()
    run, source = run_at(tmp_path / "x")
    with pytest.raises(UsageError, match="'convnet3' has no pretrained weights; use timm:NAME"):
        make_teachers(run, source, ("convnet3",), 0, 0)
    with pytest.raises(UsageError, match="no weights of 'timm:resnet18' for the 10 classes of cifar10-mini"):
        make_teachers(run, source, ("timm:resnet18",), 0, 0)
    with monkeypatch.context() as patch:
        patch.setattr(timm.models, "get_pretrained_cfg", lambda name: config(mean=(0.5, 0.5, 0.5)))
        with pytest.raises(UsageError, match=r"are for mean \(0.5, 0.5, 0.5\)"):
            make_teachers(run, source, ("timm:resnet18",), 0, 0)
    monkeypatch.setattr(timm.models, "get_pretrained_cfg", lambda name: config())
    create = timm.create_model

    def offline(name: str, pretrained: bool, **more: Any) -> torch.nn.Module:
        if pretrained:
            raise OSError("no network\nat all")
        return create("test_resnet", pretrained=False, **more)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(SourceError, match=r"cannot get the weights timm/resnet18.x \(no network\); check the network"):
        make_teachers(run, source, ("timm:resnet18",), 0, 0)


def test_real_data_are_normalised_by_the_source() -> None:
    data = real_data(few(sources.open_source("cifar10-mini")), Protocol())
    assert isinstance(data, DistilledData) and data.about.near is None
