"""Named protocols stay what they are: a digest that changes would part old results from new ones."""

from __future__ import annotations

from ddhub.protocols.named import PROTOCOLS

DIGESTS = {
    "infer-static": "a409a27feb9a",
    "infer-dynamic": "1aca37a0b5e5",
    "infer-static-50": "9f28338a5da2",
    "infer-dynamic-10": "cdeddf5c9d11",
    "infer-tiny-static": "ec0cdf25ce94",
    "infer-tiny-static-50": "9e76ae3f1172",
    "infer-tiny-dynamic": "e1b8181223ed",
    "infer-imagenet-static": "80a0d97bb0ca",
    "infer-imagenet-dynamic": "6343912d0c2a",
    "sre2l-cifar": "b96b00cf4558",
    "sre2l-cifar-batch-stats": "3d45839b4cd1",
    "sre2l-tiny": "dfebc0480672",
    "sre2l-imagenet": "25d47105a248",
    "rded": "b1373c8b185b",
    "rded-f2": "0dd280e4e15c",
    "nrr-dd": "9c216dea855d",
    "nrr-dd-f2": "ab5237b850ee",
    "nrr-dd-100": "fd7d987ba27b",
    "nrr-dd-f2-100": "7add89c9d25a",
    "coreset": "6b64711441e8",
    "idc": "c86878d67af9",
    "idc-svhn": "de13059b63d3",
    "idc-mnist": "48f294742ce8",
    "idc-i-svhn-ipc1": "7f6781282740",
    "udd-proxy": "e7850971587f",
    "udd-proxy-svhn": "39142e8f48b8",
    "udd-proxy-mnist": "f6bfebbefd60",
    "datm": "91a937734b29",
    "edf": "4271c4505239",
    "edf-kd": "8869c866fb95",
    "teacher": "3b3a5e0ad1e4",
    "squeeze": "5f5e2889e6e3",
    "squeeze-tiny": "12755073e033",
}


def test_digests_of_named_protocols() -> None:
    assert {name: plan.digest for name, plan in PROTOCOLS.items()} == DIGESTS
    assert [*PROTOCOLS] == [*DIGESTS]  # in the order of the help
    assert all(plan.name == name for name, plan in PROTOCOLS.items())
