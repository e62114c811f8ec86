"""Where it is published, and from where: the command, Python, the Hub's repositories, folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import ddhub.cli.app
from ddhub.artifact.manifest import COMPENSATORS, README
from ddhub.errors import DDHubError, UsageError
from ddhub.publish.push import push
from ddhub.remote import client
from hub import shelf
from hub.made import contents
from hub.server import DummyHub
from hub.shelf import INFER, RANDOM

REPO = f"lab/{INFER}"

pytestmark = pytest.mark.usefixtures("hasty")


def cli(*words: object) -> str:
    """Standard output of `ddhub push`, which must succeed."""
    done = CliRunner().invoke(ddhub.cli.app.cli, ["push", *map(str, words)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_command(signed_in: DummyHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub, folder = signed_in, shelf.pair(tmp_path)
    catalog = tmp_path / "checkout" / "ddhub" / "assets" / "catalog.json"
    catalog.parent.mkdir(parents=True)
    catalog.write_text('{"artifacts": {}, "format": 1}')
    monkeypatch.setattr(client, "CATALOG", catalog)
    told = cli(folder, "--dry-run").splitlines()
    url = f"{hub.endpoint}/datasets/ddhub/{INFER}"
    assert told[0] == "ok: the artifact loads" and told[-1] == f"{url}: would be written, tag v1" and not hub.repos
    assert told[-2].endswith("bytes in 7 files") and any(line.endswith(f"  {COMPENSATORS}") for line in told)
    told = cli(folder, "--private").splitlines()
    commit = hub.head(f"ddhub/{INFER}")
    assert told[-2] == f"{url}: published, commit {commit}, tag v1" and told[-1].startswith('catalog entry: {"repo": ')
    cli(folder)
    assert not client.pins(catalog)  # installed, not a checkout; nor is what is private for everybody
    (tmp_path / "checkout" / "pyproject.toml").touch()
    assert f"{url}: there already, commit {commit}, tag v1" in cli(folder)
    assert client.pins(catalog)[INFER].revision == commit
    facts = json.loads(cli(folder, "--to", REPO, "--json"))
    assert (facts["url"], facts["pin"]["repo"]) == (f"{hub.endpoint}/datasets/{REPO}", REPO)
    assert client.pins(catalog)[INFER].repo == f"ddhub/{INFER}"  # another namespace's are not for this catalog
    cli(folder, "--to", REPO, "--catalog", tmp_path / "mine.json")
    assert client.pins(tmp_path / "mine.json")[INFER].repo == REPO


def test_where_it_goes(signed_in: DummyHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shelf.pair(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert push(folder).url.endswith(f"/datasets/ddhub/{INFER}")
    monkeypatch.setenv("DDHUB_NAMESPACE", "lab")
    assert push(folder).url.endswith(f"/datasets/{REPO}")
    with pytest.raises(UsageError, match=f"use lab/{INFER}, or ./lab/x"):
        push(folder, "lab/x")
    assert push(folder, "./lab/x").url == f"lab/x/{INFER}" and (tmp_path / "lab/x/catalog.json").is_file()
    assert push(folder, Path("lab/y")).url == f"lab/y/{INFER}"
    with pytest.raises(UsageError, match="is a folder: it has no visibility, branches or catalog entry"):
        push(folder, "shelf", private=True)


def test_from_python(signed_in: DummyHub, tmp_path: Path) -> None:
    data = ddhub.load(shelf.pair(tmp_path))
    done = data.push_to_hub(REPO, commit_message="Mine", token=signed_in.token)
    assert done.tag == "v1" and signed_in.tags(REPO) == {"v1": done.commit}
    for name in ("lab", "./lab/x", f"{REPO}/x"):
        with pytest.raises(UsageError, match="is not a repository NAMESPACE/NAME"):
            data.push_to_hub(name)
    written = data.export("npz", tmp_path / "x.npz")
    assert written.items == 24 and written.path == tmp_path / "x.npz"


def test_a_folder_is_a_shelf(tmp_path: Path) -> None:
    folder, tree = shelf.pair(tmp_path / "out"), tmp_path / "tree"
    assert f"{tree / INFER}: would be written" in cli(folder, "--to", tree, "--dry-run") and not tree.exists()
    assert f"{tree / INFER}: published" in cli(folder, "--to", tree)
    before = contents(tree)
    assert before.keys() == {"catalog.json", *(f"{INFER}/{x}" for x in (*contents(folder), README, COMPENSATORS))}
    assert f"{tree / INFER}: there already" in cli(folder, "--to", tree) and contents(tree) == before
    assert len(ddhub.load(INFER, source=tree)) == 24
    cli(folder.parent / RANDOM, "--to", tree)
    assert [*json.loads((tree / "catalog.json").read_text())["artifacts"]] == [INFER, RANDOM]
    done = CliRunner().invoke(ddhub.cli.app.cli, ["verify", str(tree / INFER), str(tree / RANDOM)])
    assert done.exit_code == 0, done.output
    pictures = tree / INFER / COMPENSATORS
    pictures.write_bytes(pictures.read_bytes()[:-1])
    done = CliRunner().invoke(ddhub.cli.app.cli, ["verify", str(tree / INFER)])
    assert done.exit_code == 1 and f"{pictures}: not what this Pillow makes of the tensors" in done.stderr
    cli(folder, "--to", tree)  # repairs it
    assert contents(tree / INFER) == {x.partition("/")[2]: data for x, data in before.items() if "/" in x}


def test_nothing_else_is_overwritten_in_a_folder(tmp_path: Path) -> None:
    folder, tree = shelf.pair(tmp_path / "out"), tmp_path / "tree"
    (tree / INFER).mkdir(parents=True)
    (tree / INFER / "thesis.tex").touch()
    with pytest.raises(UsageError, match="not overwritten, it is not an artifact"):
        push(folder, tree)
    (tree / "catalog.json").write_text("[]")
    with pytest.raises(DDHubError, match=r"catalog\.json"):
        push(folder.parent / RANDOM, tree)
    (tmp_path / "file").touch()
    with pytest.raises(DDHubError, match="cannot be written .*; free space or choose another folder for --to"):
        push(folder, tmp_path / "file")
