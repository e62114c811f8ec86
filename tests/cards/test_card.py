"""Cards: no table that mixes protocols or test sets, and nothing that a manifest could break."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest
from datasets import ClassLabel, Image, Value
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCard
from test_results import SHORT, result, tiny

from ddhub.artifact.manifest import PARQUET, TENSORS, Manifest, seal_text
from ddhub.artifact.results import Entry
from ddhub.cards import card
from ddhub.cards.card import render
from ddhub.cards.comparison import compare_with
from ddhub.protocols.named import protocol


def tiny_random(**changes: Any) -> Manifest:
    """The baseline of `tiny`."""
    tensors = {
        "images": {"dtype": "U8", "shape": [6, 3, 4, 6]},
        "image_labels": {"dtype": "U8", "shape": [6]},
    }
    fields = {"name": "tiny-random-ipc2", "method": "random-real", "tensors": tensors, "teachers": []}
    fields["files"] = {PARQUET: {"sha256": "1" * 64, "bytes": 1700}}
    return tiny(**{**fields, "labels": {"kind": "hard"}, "deviations": [], "paper": [], **changes})


def entry(manifest: Manifest, *accuracies: float, **changes: Any) -> Entry:
    return Entry(manifest, [result(manifest, seed, x, **changes) for seed, x in enumerate(accuracies)])


def row(text: str, start: str) -> list[str]:
    """The cells of the only table row that begins with `start`."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {start} |")]
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def test_bytes_and_bits_per_class() -> None:
    text = render(entry(tiny()))
    assert row(text, "`decoder.compensators`") == ["`decoder.compensators`", "I8", "1 x 1 x 3 x 4 x 6", "72"]
    assert row(text, "all") == ["all", "", "", "331"]  # 216 + 3 + 72 + 4 + 36
    assert row(text, f"`{PARQUET}`")[-1] == "1,500" and row(text, f"`{TENSORS}`")[-1] == "500"
    assert "**2,000 stored bytes**, labels included: 5,333 bits per class." in text  # 16,000 bits, 3 classes
    # random: 2 images of 72 + 1 bytes for each of 3 classes, 438
    assert "as papers count: 331 bytes, 0.76 times those of 2 random images per class with hard labels." in text


def test_results_stand_beside_the_baseline() -> None:
    own, random = entry(tiny(), 40.0, 41.0, 43.5), entry(tiny_random(), 30.0, 32.0)
    text = render(own, [own, random])
    place = ["200", "11.0", "CPU, threads: 1", "fp32"]
    assert row(text, "convnet3 | tiny-infer-ipc2") == [
        *("convnet3", "tiny-infer-ipc2", "soft", "2,000", "41.50 ± 1.80", "3", "80"),
        *place,
    ]
    random_row = (
        "| convnet3 | tiny-random-ipc2 (random selection) | hard | 1,700 | 31.00 ± 1.41 | 2 | 80 | 200 | 10.5 |"
    )
    assert random_row in text
    assert "below random" not in text
    assert "on all 10,000 test images" in text
    flags = "--protocol infer-dynamic --model convnet3 --seeds"
    assert f"ddhub train tiny-infer-ipc2 {flags} 3 --precision fp32 --data ROOT" in text
    assert f"ddhub train tiny-random-ipc2 {flags} 2 --precision fp32 --data ROOT" in text
    for setting in (
        "- epochs 80, batch size 64",
        "- adamw, weight decay 0.01",
        "- learning rate 0.001, cosine",
        "random crop with 4 px of padding, flip with probability 0.5, mixup with Beta(0.8, 0.8) per batch",
        "tiny-infer-ipc2: soft, label temperature 30.0; tiny-random-ipc2: hard",
    ):
        assert setting in text


def test_a_result_below_random_is_said_plainly() -> None:
    text = render(entry(tiny(), 29.0, 30.0), [entry(tiny_random(), 30.0, 32.0)])
    line = "**Below random selection** of as many images: convnet3 under infer-dynamic; see the results."
    assert f"\n\n{line}\n\n```python\nimport ddhub\n" in text
    sentence = "tiny-infer-ipc2 (29.50 %) scores below random selection (31.00 %) under this protocol."
    assert f"\n\nWith convnet3, {sentence}\n\n" in text


PICTURES = {PARQUET: {"sha256": "0" * 64, "bytes": 4321}}
FEW = {PARQUET: {"sha256": "3" * 64, "bytes": 1000}}


def variant(*accuracies: float, **changes: Any) -> Entry:
    """A control of `tiny`: the same recipe with hard labels."""
    recipe = {**tiny().recipe, "preset": "tiny-ipc2-cpu-hard"}
    m = tiny(name="tiny-infer-ipc2-hard", labels={"kind": "hard"}, recipe=recipe, files=PICTURES)
    return entry(m, *accuracies, **changes)


def test_variants_stand_in_the_table_and_are_put_into_words() -> None:
    own, random = entry(tiny(files=PICTURES), 40.0, 42.0), entry(tiny_random(), 30.0, 32.0)
    text = render(own, [own, random, variant(33.0, 34.0)])
    made = "recipes/infer.py --preset tiny-ipc2-cpu-hard"
    assert row(text, "tiny-infer-ipc2-hard") == ["tiny-infer-ipc2-hard", made]
    assert row(text, "convnet3 | tiny-infer-ipc2-hard")[2:6] == ["hard", "4,321", "33.50 ± 0.71", "2"]
    # 33.5 - 41 and 41 - 31; (33.5 - 31) / (41 - 31); sd of the difference: sqrt(2 + 0.5)
    said = "tiny-infer-ipc2-hard is -7.50 points from it: 25% of the gain over random selection."
    assert f"With convnet3, tiny-infer-ipc2 is +10.00 points from random selection:\n\n- {said}\n\n" in text
    close = render(own, [random, variant(39.0, 40.0)])
    assert "is -1.50 points from it (within twice the standard deviation of the difference): 85%" in close


def test_what_stored_labels_keep_of_the_gain_of_full_ones() -> None:
    plain = tiny_random().tensors

    def labelled(word: str, kind: str, name: str, shape: list[int], *accuracies: float, **more: Any) -> Entry:
        tensors = {**plain, f"labels.{name}": {"dtype": "F16", "shape": shape}} if name else plain
        config = {**tiny().recipe["config"], "labels": word}
        fields = {"name": f"tiny-{word}", "labels": {"kind": kind, "seed": 0}, "tensors": tensors}
        stored = {TENSORS: {"sha256": "2" * 64, "bytes": 8 * sum(shape)}} if name else {}
        fields["files"] = {**PICTURES, **stored}
        fields |= {"recipe": {**tiny().recipe, "preset": None, "config": config}}
        m = tiny(**{**fields, **more})
        return entry(m, *accuracies)

    own = labelled("dbr", "dbr", "distances", [5, 6, 2], 36.0)  # 120 bytes
    hard, full = labelled("hard", "hard", "", [], 30.0), labelled("soft", "soft", "logits", [5, 6, 3], 40.0)  # 180
    static = labelled("static", "soft", "logits", [6, 3], 32.0)
    other = labelled("other", "soft", "logits", [6, 3], 39.0, files={PARQUET: {"sha256": "1" * 64, "bytes": 1}})
    drawn = labelled("drawn", "dbr", "distances", [5, 6, 2], 31.0, method="random-real", files=FEW)
    text = render(own, [hard, full, static, other, drawn])
    head = "On the same images, full soft labels (tiny-soft, 180 bytes of labels) are +10.00 points from one-hot labels"
    lines = "- tiny-dbr: 60% of that, with 120 bytes (66.7%)\n- tiny-static: 20% of that, with 36 bytes (20.0%)\n\n"
    assert f"{head} (tiny-hard); of that gain keep:\n\n{lines}" in text
    for name, labels, size in (("dbr", "dbr", "4,425"), ("soft", "soft per view", "4,433"), ("drawn", "dbr", "1,000")):
        assert row(text, f"convnet3 | tiny-{name}")[2:4] == [labels, size], name
    assert "tiny-other is" not in text and "tiny-drawn is -5.00 points from it" in text
    assert "full soft" not in render(own, [hard, static])
    plain_random = entry(tiny_random(files=PICTURES), 30.0)  # the baseline has the labels of the images too
    assert f"{head} (tiny-random-ipc2); of that gain keep:" in render(own, [plain_random, full])
    worse = labelled("soft", "soft", "logits", [5, 6, 3], 29.0)
    assert "are -1.00 points from one-hot labels (tiny-hard): there is no gain to keep." in render(own, [hard, worse])
    made = {line.split(" | ")[0][2:]: line.split(" | ")[1] for line in text.splitlines() if " | recipes/" in line}
    assert made["tiny-static"] == "recipes/infer.py --labels static |"


def test_a_card_without_data_shows_the_pictures_of_what_it_is_a_variant_of() -> None:
    own, other = entry(tiny(), 40.0), replace(variant(33.0), kept=False)
    about = "A variant of [tiny-infer-ipc2](../tiny-infer-ipc2/README.md), whose images are shown"
    again = "The command under “How it was made” makes them again, and the code below loads them from there."
    link = "](../tiny-infer-ipc2/preview.png)"
    text = render(other, [own, other])
    pictures = f"![the stored images of tiny-infer-ipc2, one row a class{link}"
    assert f"\n\n{about}; its own data are not kept here. {again}\n\n{pictures}\n\n" in text
    assert "](preview.png)" not in text
    alone = render(other, [other])
    assert f"\n\nIts data are not kept here. {again}\n\n" in alone
    assert "preview.png" not in alone
    assert "preview.png" in render(replace(other, kept=True)) and "not kept" not in render(replace(other, kept=True))
    text = render(entry(tiny(content="")))
    assert "; content: not recorded." in text


def test_results_of_variants_under_other_protocols_are_shown_only_for_equal_steps() -> None:
    own, plan = entry(tiny(), 40.0), replace(protocol("infer-static"), epochs=150, name="infer-static+epochs=150")
    for steps, shown in ((200, True), (199, False)):
        text = render(own, [variant(35.0, plan=plan, steps=steps)])
        assert ("As many steps as tiny-infer-ipc2 takes" in text) is shown
        said = "With convnet3 and 200 steps each, tiny-infer-ipc2-hard reaches 35.00 % here, tiny-infer-ipc2 40.00 %"
        assert (f"{said} under infer-dynamic: -5.00 points." in text) is shown
        assert ("ddhub train tiny-infer-ipc2-hard --protocol infer-static --epochs 150 --model" in text) is shown


def test_every_setting_of_a_protocol_is_on_the_card_and_in_the_command() -> None:
    m = tiny()
    for plan, texts, flags in [
        (
            protocol("idc", epochs=900, batch_size=8),
            [
                "- learning rate 0.01, times 0.2 at epoch 599, 749, stepped once an epoch",
                "DSA (idc: color, crop, flip, scale, rotate; drawn per batch)",
                "cutmix with Beta(1, 1) per batch with probability 0.5",
            ],
            "--protocol idc --epochs 900 --batch-size 8",
        ),
        (
            protocol("rded-f2", teachers=("t@0123456789ab",)),
            [
                "weight decay 0.01 (not on biases and norms)",
                "half a cosine, to half of it",
                "2 x 2 patches shuffled, random resized crop of 0.5 to 1 of the area",
                "labels: of the teachers t@0123456789ab on every mixed batch; the loss of logits (soft, teacher) at",
            ],
            "--protocol rded-f2 --teacher t",
        ),
        (
            protocol("sre2l-tiny"),
            [
                "cosine to zero after 5 epochs of linear warm-up",
                "the loss of logits (soft, teacher) at temperature 20 in place",
                ", times its square",
            ],
            "--protocol sre2l-tiny",
        ),
        (
            protocol("edf"),
            ["learned with the artifact (else 0.01), times 0.1 at epoch 502, optimizer restarted"],
            "edf",
        ),
        (protocol("coreset"), ["linear down to zero, set at every step\n"], "--protocol coreset"),
        (protocol("sre2l-cifar-batch-stats"), ["with the statistics of the batch"], "sre2l-cifar-batch-stats"),
    ]:
        text = render(Entry(m, [result(m, 0, 40.0, plan=plan)]))
        for part in [*texts, f"{flags} --model convnet3 --seeds 1"]:
            assert part in text, part


def test_protocols_and_test_sets_never_share_a_table() -> None:
    m, long = tiny(), protocol("infer-static")
    results = [
        result(m, 0, 40.0),
        result(m, 0, 50.0, plan=long),
        result(m, 0, 60.0, test_fingerprint="cafe" * 16, test="Other"),
    ]
    random = entry(tiny_random(), 99.0, plan=long)
    text = render(Entry(m, results), [random])
    assert text.count("### Protocol") == 3
    short, full, other = text.split("### Protocol")[1:]
    assert "40.00" in short and "50.00" not in short and "99.00" not in short and "below random" not in short
    assert "50.00" in full and "99.00" in full and "below random" in full
    assert "60.00" in other and "99.00" not in other and "test Other" in other
    board = card.leaderboard([Entry(m, results), random])
    assert board.count("\n## Protocol") == 3


@pytest.mark.parametrize(
    "change",
    [
        {"ipc": 3},
        {"dataset": "other"},
        {"method": "sre2l", "recipe": {**tiny().recipe, "path": "recipes/sre2l.py"}},
        {"classes": ("a", "b", "c")},
    ],
)
def test_only_random_selection_of_the_same_budget_is_the_baseline(change: dict[str, Any]) -> None:
    text = render(entry(tiny(), 40.0), [entry(tiny_random(**change), 99.0)])
    assert "99.00" not in text


def test_a_random_artifact_has_no_baseline() -> None:
    random = entry(tiny_random(), 30.0)
    assert "(random selection)" not in render(random, [random, entry(tiny_random(name="other"), 50.0)])


def test_commands_repeat_changed_epochs_seeds_and_precisions() -> None:
    m = tiny()
    plan = replace(protocol("infer-static"), epochs=7, name="whatever")
    runs = [result(m, seed, 40.0, plan=plan) for seed in (2, 3, 7)]
    runs.append(result(m, 8, 40.0, plan=plan, precision="bf16"))
    text = render(Entry(m, runs))
    flags = "ddhub train tiny-infer-ipc2 --protocol infer-static --epochs 7 --model convnet3"
    for seeds in ("--seed 2 --seeds 2 --precision fp32", "--seed 7 --seeds 1 --precision fp32"):
        assert f"{flags} {seeds} --data ROOT" in text
    assert f"{flags} --seed 8 --seeds 1 --precision bf16" in text
    assert "- epochs 7, batch size 64" in text


def test_a_protocol_of_its_own_and_one_that_no_manifest_has() -> None:
    own = replace(SHORT, lr=0.5, name="mine")
    m = tiny(protocol=asdict(own))
    text = render(Entry(m, [result(m, 0, 40.0, plan=own)]))
    assert "- learning rate 0.5" in text
    assert "ddhub train tiny-infer-ipc2 --model convnet3 --seeds 1" in text
    text = render(Entry(tiny(), [result(tiny(), 0, 40.0, plan=own)]))
    assert "- learning rate 0.5, cosine to zero" in text and own.digest in text  # the result has its settings


def test_a_card_says_of_how_many_images_the_picture_is() -> None:
    m = tiny()
    for count, words in ((20, "the stored images"), (21, "the first 20 stored images")):
        tensors = {**m.tensors, "images": {**m.tensors["images"], "shape": [count * len(m.classes), 3, 32, 32]}}
        assert f"\n![{words}, one row a class](preview.png)\n" in render(entry(replace(m, tensors=tensors)))


def test_a_random_coreset_is_said_to_be_random_selection_and_has_no_other_beside_it() -> None:
    m = tiny()
    drawn = replace(m, method="coreset", recipe={**m.recipe, "config": {**m.recipe["config"], "policy": "random"}})
    assert "\nReal images, drawn at random, of `" in render(entry(drawn))
    assert compare_with(entry(drawn), [entry(m)]).entries == []
    herded = replace(drawn, recipe={**drawn.recipe, "config": {"policy": "herding"}})
    assert "\nDistilled `" in render(entry(herded)) and "\nDistilled `" in render(entry(m))


def test_what_else_a_card_says() -> None:
    text = render(entry(tiny()))
    assert text.startswith("---\n") and '\nlicense: "mit"\n' in text
    assert "\n---\n# tiny-infer-ipc2\n" in text
    for part in (
        "![the stored images, one row a class](preview.png)",
        f"Digest: `{tiny().digest}`; content: `{'c' * 64}`.",
        "By `recipes/infer.py` of ddhub:",
        "| commit | abc |",
        'data = ddhub.load("tiny-infer-ipc2")',
        "None yet: `ddhub train tiny-infer-ipc2 --seeds 3 --record --data ROOT`.",
        "### The paper's setting, not this protocol",
        "| resnet18 | 32.0 ± 0.5 | Table 1 |",
        "python -m recipes infer tiny-infer-ipc2 --preset tiny-ipc2-cpu --seed 0 --data ROOT",
        "| setting teachers | a,b |",
        "| peak memory | 1.50 GiB |",
        "| seconds, each stage from its last start | 12.5 |",
        "| convnet3-bn | 71.23 | 4 |",
        "- Scaled down: teacher_epochs 4 instead of 200",
        "- source: a/tiny, split train (JPEG copy), fingerprint `f00d`; license mit",
        "```bibtex\n@misc{tiny,\n  author={Müller}\n}\n```",
    ):
        assert part in text, part
    recipe = {**tiny().recipe, "preset": None}
    flags = "--ipc 2 --lr 0.25 --teachers a,b --data ROOT"
    assert f"python -m recipes infer tiny-infer-ipc2 {flags}" in render(entry(tiny(recipe=recipe)))


def test_manifest_texts_cannot_break_out() -> None:
    m = tiny(
        paper=[{"model": "a|b\nc", "accuracy": 1, "where": "<b>\x1b[31m"}],
        citation="```\n# not a heading",
        deviations=["one\n# two"],
    )
    text = render(entry(m))
    assert "| a\\|b c | 1 | &lt;b>[31m |" in text
    assert "````bibtex\n```\n# not a heading\n````" in text
    assert "- one # two" in text
    assert "\x1b" not in text


def test_the_leaderboard_is_sorted_and_names_what_has_no_results() -> None:
    low, high = entry(tiny(), 30.0), entry(tiny_random(), 40.0)
    text = card.leaderboard([low, high, entry(tiny(name="empty"))])
    rows = [line for line in text.splitlines() if line.startswith("| convnet3")]
    assert [("random" in line, "40.00" in line) for line in rows] == [(True, True), (False, False)]
    link = "[tiny-infer-ipc2](tiny-infer-ipc2/README.md)"
    assert f"| convnet3 | {link} | infer | 2 | 2,000 | 5,333 | 30.00 | 1 |" in text
    assert "No results yet: [empty](empty/README.md)." in text


def test_rendering_is_pure() -> None:
    own, random = entry(tiny(), 40.0), entry(tiny_random(), 30.0)
    assert render(own, [own, random]) == render(own, [random, own])


def test_a_card_is_right_beside_what_it_was_rendered_with() -> None:
    own, random, late = entry(tiny(), 40.0), entry(tiny_random(), 30.0), variant(33.0)
    text = seal_text(render(own, [random], "lab"))
    assert text.endswith(" -->\n") and f"\n<!-- beside: tiny-random-ipc2@{random.manifest.digest[:12]}+1 -->\n" in text
    assert card.is_right(text, own, [own, random, late])  # what came later makes no card wrong
    assert not card.is_right(text, entry(tiny(), 41.0), [random])
    assert not card.is_right(seal_text(render(own, [random], "lab").replace("40.00", "45.00")), own, [random])
    assert not card.is_right(seal_text("# Better than it is\n"), own, [random])
    # the seal alone speaks for a card that shows what is not at hand
    assert card.is_right(text, own, []) and card.is_right(text, own, [entry(tiny_random(), 30.0, 31.0)])


def test_a_card_names_its_repository() -> None:
    text = render(entry(tiny()), (), "lab")
    assert 'ddhub.load("lab/tiny-infer-ipc2")' in text and 'load_dataset("lab/tiny-infer-ipc2", split="train")' in text
    text = render(entry(tiny()))
    assert 'ddhub.load("tiny-infer-ipc2")' in text and 'load_dataset("ddhub/tiny-infer-ipc2", split="train")' in text


def metadata(manifest: Manifest) -> dict[str, Any]:
    """What the Hub's own class reads at the top of a card."""
    return DatasetCard(render(entry(manifest))).data.to_dict()


def test_the_metadata_are_those_of_the_hub_and_of_datasets() -> None:
    files = {PARQUET: {"sha256": "0" * 64, "bytes": 4321}}
    found = metadata(tiny(dataset="cifar10", files=files, license="MIT (as the Hub says)"))
    infos = DatasetInfosDict.from_dataset_card_data(DatasetCard(render(entry(tiny(files=files)))).data)
    assert {key: found[key] for key in found if key not in ("configs", "dataset_info")} == {
        "license": "mit",
        "pretty_name": "CIFAR-10 distilled by infer, 2 images per class",
        "task_categories": ["image-classification"],
        "size_categories": ["n<1K"],
        "source_datasets": ["extended|a/tiny"],
        "annotations_creators": ["machine-generated"],
        "tags": ["dataset-distillation", "ddhub", "infer", "ipc2"],
    }
    assert [(x["config_name"], x.get("default"), x["data_files"][0]["path"]) for x in found["configs"]] == [
        ("default", True, "data/train-*.parquet"),
        ("compensators", None, "compensators/train-*.parquet"),
    ]
    assert infos["default"].features == {
        "image": Image(),
        "label": ClassLabel(names=["airplane", "automobile", "bird"]),
    }
    kinds = {"image": Image(), "net": Value("int64"), "set": Value("int64"), "scale": Value("float32")}
    assert infos["compensators"].features == kinds
    splits = {name: info.splits["train"] for name, info in infos.items()}
    assert (splits["default"].num_examples, splits["default"].num_bytes) == (3, 4321)
    assert (splits["compensators"].num_examples, splits["compensators"].num_bytes) == (1, 72)


def test_the_metadata_of_other_artifacts() -> None:
    images = {"dtype": "U8", "shape": [1000, 3, 4, 6]}
    tensors = {"images": images, "image_labels": {"dtype": "U8", "shape": [1000]}}
    found = metadata(tiny_random(tensors=tensors, source={**tiny().source, "hub_id": ""}))
    assert [x["config_name"] for x in found["configs"]] == ["default"]
    assert (found["size_categories"], found["source_datasets"]) == (["1K<n<10K"], ["original"])
    assert found["annotations_creators"] == ["found"]


@pytest.mark.parametrize(
    ("text", "license"),
    [
        ("unknown (CIFAR-10 by Krizhevsky, 2009; see https://www.cs.toronto.edu/~kriz/cifar.html)", "unknown"),
        ("MIT", "mit"),
        ("Apache-2.0 (the selection); images: ImageNet's terms", "other"),
        ("custom, non-commercial (see http://ufldl.stanford.edu/housenumbers)", "other"),
        ("MIT-like", "other"),
    ],
)
def test_a_license_is_named_only_where_the_text_is_one(text: str, license: str) -> None:
    assert metadata(tiny(license=text))["license"] == license


def test_no_text_breaks_the_metadata() -> None:
    names = (
        "no",
        "1e5",
        "~",
        '"\\',
        "---\nlicense: mit",
        "a: b # c",
        "\x1b\u2028\x85\ud800",
        "🚗 {%",
        "2026-11-21",
        " ",
    )
    manifest = tiny(classes=names, method="- x: [", license="a\n---\n")
    assert "'1': \"1e5\"" in render(entry(manifest))  # bare it would be a number for readers of YAML 1.2
    found = metadata(manifest)
    (label,) = [x for x in found["dataset_info"][0]["features"] if x["name"] == "label"]
    assert label["dtype"]["class_label"]["names"] == {str(i): name for i, name in enumerate(names)}
    assert found["tags"][2] == "- x: [" and found["license"] == "other"


def test_the_command_names_the_file_of_a_method_that_is_a_preset_of_another() -> None:
    recipe = {**tiny().recipe, "path": "recipes/nrr_dd.py", "preset": "rded-tiny-ipc2"}
    text = card.render(Entry(tiny(method="rded", recipe=recipe), []))
    assert "python -m recipes nrr-dd tiny-infer-ipc2 --preset rded-tiny-ipc2 --seed 0 --data ROOT" in text
