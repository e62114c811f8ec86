"""The dummy hub's faults, each seen by the real client; what its isolation keeps from tests; a hub that is away."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import huggingface_hub as hf
import pytest
from huggingface_hub import errors
from huggingface_hub.utils import get_session

from hub import isolation
from hub.server import DummyHub

SMALL, LARGE = b"1234567890", bytes(range(256)) * 1000


@pytest.fixture
def filled(hub: DummyHub) -> str:
    return hub.put("lab/data", {"small.txt": SMALL, "d/large.npy": LARGE})


def download(name: str) -> bytes:
    return Path(hf.hf_hub_download("lab/data", name, repo_type="dataset")).read_bytes()


def test_status_by_route_path_and_count(hub: DummyHub, filled: str) -> None:
    hub.fault("status", status=503, route="cdn", path="d/*.npy", after=1, times=2)
    assert download("d/large.npy") == LARGE and download("small.txt") == SMALL
    hub.new_home(Path(hf.constants.HF_HOME) / "again")
    for _ in range(2):
        with pytest.raises(errors.HfHubHTTPError, match="503"):
            download("d/large.npy")
    assert download("d/large.npy") == LARGE
    assert [one.status for one in hub.requests("cdn")] == [200, 503, 503, 200]
    hub.fault("status", status=403, code="GatedRepo", route="info", times=None)
    for _ in range(2):
        with pytest.raises(errors.GatedRepoError):
            hf.HfApi().dataset_info("lab/data")
    hub.clear_faults()
    assert hf.HfApi().dataset_info("lab/data").sha == filled


def test_rate_limits_are_waited_for(hub: DummyHub, filled: str) -> None:
    hub.fault("rate", retry_after=0, method="GET", path="small.txt")
    assert download("small.txt") == SMALL
    assert [one.status for one in hub.requests("resolve", "GET")] == [429, 200]


def test_delay(hub: DummyHub, filled: str) -> None:
    hub.fault("delay", seconds=0.3, route="info")
    started = time.monotonic()
    hf.HfApi().dataset_info("lab/data")
    assert time.monotonic() - started >= 0.3
    hub.fault("delay", seconds=5, route="info")
    with pytest.raises(Exception, match="timed out"):
        hf.HfApi().dataset_info("lab/data", timeout=0.1)


def test_a_cut_is_resumed_and_a_lost_answer_is_not_a_lost_commit(hub: DummyHub, filled: str) -> None:
    hub.fault("cut", bytes=1000, route="cdn")
    assert download("d/large.npy") == LARGE
    assert len(hub.requests("cdn")) == 2
    hub.fault("cut", bytes=0, route="commit")
    hub.fault("cut", bytes=-1, route="commit")
    api = hf.HfApi(token=hub.token)
    for left in (1, 2):  # the second fault comes first: it is about what is never done
        with pytest.raises(Exception, match="disconnected|reset|closed|Connection"):
            api.upload_file(path_or_fileobj=b"1", path_in_repo="x", repo_id="lab/data", repo_type="dataset")
        assert len(hub.commits("lab/data")) == left + 1


def test_ranges_are_ignored_on_request(hub: DummyHub, filled: str) -> None:
    url = hf.hf_hub_url("lab/data", "small.txt", repo_type="dataset")
    hub.fault("ignore_range", after=1)
    for asked, status, body in (("2-4", 206, b"345"), ("2-4", 200, SMALL), ("-3", 206, b"890"), ("8-", 206, b"90")):
        got = get_session().get(url, headers={"Range": f"bytes={asked}"})
        assert (got.status_code, got.content) == (status, body)
    assert get_session().get(url, headers={"Range": "bytes=10-"}).status_code == 416


def test_a_flipped_bit_is_found_by_checksums_only(hub: DummyHub, filled: str) -> None:
    hub.fault("flip", bit=8 * 1000 + 3, route="cdn")
    spoilt = download("d/large.npy")
    assert spoilt[1000] == LARGE[1000] ^ 8 and spoilt[:1000] + spoilt[1001:] == LARGE[:1000] + LARGE[1001:]
    checked = hf.HfApi().verify_repo_checksums("lab/data", repo_type="dataset")
    assert [one["path"] for one in checked.mismatches] == ["d/large.npy"]


@pytest.mark.parametrize(("name", "delta"), [("small.txt", 1), ("small.txt", -1), ("d/large.npy", 7)])
def test_a_wrong_size_is_noticed(hub: DummyHub, filled: str, name: str, delta: int) -> None:
    hub.fault("size", delta=delta, route="resolve", method="HEAD", path=name)
    with pytest.raises(OSError, match="Consistency check failed"):
        download(name)
    hub.fault("size", delta=10**12, route="tree")
    for expected in (10**12 + len(SMALL), len(SMALL)):
        tree = {one.path: one for one in hf.HfApi().list_repo_tree("lab/data", repo_type="dataset")}
        assert tree["small.txt"].size == expected


def test_etags_and_commits_are_what_the_server_says(hub: DummyHub, filled: str) -> None:
    hub.fault("etag", method="HEAD", value="stale")
    hub.fault("commit", method="HEAD")
    path = Path(hf.hf_hub_download("lab/data", "small.txt", repo_type="dataset"))
    assert (path.resolve().name, path.parent.name) == ("stale", 40 * "f")
    hub.fault("commit", route="info", value=40 * "a")
    assert hf.HfApi().dataset_info("lab/data").sha == 40 * "a"


def test_somebody_else_pushes_in_between(hub: DummyHub, filled: str) -> None:
    hub.fault("call", route="preupload", function=lambda: hub.put("lab/data", {"small.txt": b"theirs"}))
    with pytest.raises(errors.HfHubHTTPError, match="412"):
        hf.HfApi(token=hub.token).upload_file(
            path_or_fileobj=b"ours", path_in_repo="x", repo_id="lab/data", repo_type="dataset", parent_commit=filled
        )
    assert hub.files("lab/data") == {"small.txt": b"theirs", "d/large.npy": LARGE}


def test_a_hub_that_is_away(hub: DummyHub, filled: str, tmp_path: Path) -> None:
    assert download("small.txt") == SMALL
    hub.stop()
    assert download("small.txt") == SMALL
    with pytest.raises(Exception, match="refused"):
        hf.HfApi().dataset_info("lab/data")
    call = "import huggingface_hub as h; print(h.hf_hub_download('lab/data', 'small.txt', repo_type='dataset'))"
    env = hub.environment(tmp_path) | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", call], env=env, capture_output=True, text=True)
    assert done.returncode == 0 and filled in done.stdout
    hub.start()
    assert download("d/large.npy") == LARGE


def test_nobody_s_token_reaches_the_cdn(hub: DummyHub, filled: str) -> None:
    hf.snapshot_download("lab/data", repo_type="dataset", token=hub.token)
    assert all(one.headers["authorization"] == f"Bearer {hub.token}" for one in hub.requests("resolve"))
    assert hub.requests("cdn") and not hub.troubles
    cdn = hub.requests("cdn")[0]
    where = f"{hub.cdn}{cdn.path}?signature=download"
    get_session().get(where, headers={"Authorization": f"Bearer {hub.token}"})
    assert "a token went to the CDN" in hub.troubles.pop()


@pytest.mark.parametrize(
    "length", [b"Content-Length: 300\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n12c\r\n", b"Content-"]
)
def test_half_a_request_does_nothing(hub: DummyHub, filled: str, length: bytes) -> None:
    with socket.create_connection(("127.0.0.1", int(hub.endpoint.rsplit(":")[-1])), timeout=60) as client:
        head = f"POST /api/datasets/lab/data/commit/main HTTP/1.1\r\nAuthorization: Bearer {hub.token}\r\n"
        client.sendall(head.encode() + length + b'{"key": "header"')
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1000) == b""
    assert hub.log == [] and hub.head("lab/data") == filled


def test_unknown_routes_are_troubles(hub: DummyHub) -> None:
    assert get_session().get(f"{hub.endpoint}/api/collections").status_code == 404
    assert hub.troubles.pop().startswith("no such route: GET 127.0.0.1:")
    assert hub.requests("unknown")[0].path == "/api/collections"


@pytest.mark.parametrize("host", ["example.com", "203.0.113.7", "2001:db8::1"])
def test_sockets_go_no_further_than_loopback(hub: DummyHub, host: str) -> None:
    with pytest.raises(OSError, match="loopback only"):
        socket.create_connection((host, 80), timeout=1)
    with socket.socket() as own, pytest.raises(OSError, match="loopback only"):
        own.connect((host, 80))
    assert [name.split()[-1] for name in isolation.blocked] == [host, host]
    isolation.blocked.clear()
