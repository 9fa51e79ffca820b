"""Weights fetched from a server of the hub's form, by a process each, as the hub reads its settings once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers.hub_server import Hub, hub_server
from helpers.small_encoders import small, write_table, write_weights

PROGRAM = """
import sys
from pathlib import Path
from herohe_model.encoders.fetch import fetch_weights
from herohe_model.encoders.table import find_encoder
from herohe_model.encoders.weights import find_weights, load_weights
from herohe_model.errors import HeroheError
encoder = find_encoder("uni_v1", Path(sys.argv[1]))
assert find_weights(encoder) is None
try:
    print(fetch_weights(encoder).path.name)
except HeroheError as error:
    print(error)
else:
    print(len(load_weights(encoder).state))
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with hub_server(tmp_path / "hub") as hub:
        write_weights(tmp_path / "hub/MahmoodLab/uni/pytorch_model.bin", small("uni_v1"))
        (tmp_path / "hub/MahmoodLab/uni/config.json").write_text("{}", encoding="utf-8")
        yield hub


def fetch(hub: Hub, tmp_path: Path, **environment: str) -> str:
    """Fetch uni_v1 into an empty cache, and return what is printed."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and "proxy" not in k.lower()}
    table = write_table(tmp_path / "table.json", small("uni_v1"))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(table)],
        env={**clean, "HF_HOME": str(tmp_path / "cache"), "HF_ENDPOINT": hub.url, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_weights_are_fetched_into_the_hubs_cache_and_found_there(hub: Hub, tmp_path: Path) -> None:
    name, count = fetch(hub, tmp_path).split()
    assert name == "pytorch_model.bin" and int(count) > 10
    assert any("config.json" in path for path in hub.asked)


def test_a_gate_says_where_to_ask_and_how_to_log_in(hub: Hub, tmp_path: Path) -> None:
    hub.gated.add("MahmoodLab/uni")
    said = fetch(hub, tmp_path)
    assert "MahmoodLab/uni under CC-BY-NC-ND-4.0 gives them to accounts only" in said
    assert "https://huggingface.co/MahmoodLab/uni" in said and "HF_TOKEN" in said and "--weights" in said


def test_a_token_that_is_not_granted_yet_waits(hub: Hub, tmp_path: Path) -> None:
    hub.gated.add("MahmoodLab/uni")
    said = fetch(hub, tmp_path, HF_TOKEN="hf_other")
    assert "has not granted your account access yet" in said and "wait until it is granted" in said
    assert "hf_other" not in said


def test_a_granted_token_opens_the_gate(hub: Hub, tmp_path: Path) -> None:
    hub.gated.add("MahmoodLab/uni")
    assert "pytorch_model.bin" in fetch(hub, tmp_path, HF_TOKEN=hub.granted)


def test_offline_is_said(hub: Hub, tmp_path: Path) -> None:
    assert "HF_HUB_OFFLINE is set, and they are not in the hub's cache" in fetch(
        hub, tmp_path, HF_HUB_OFFLINE="1"
    )
    assert not hub.asked


def test_a_network_that_is_not_there_is_told_from_a_proxy_and_from_a_hub_in_trouble(
    hub: Hub, tmp_path: Path
) -> None:
    # Beside each other: the hub's library tries again for half a minute before it gives up.
    proxy = "http://me:secret@127.0.0.1:9"
    settings: list[dict[str, str]] = [
        {"HF_ENDPOINT": "http://127.0.0.1:9"},
        {"HF_ENDPOINT": "http://hub.invalid", "HTTP_PROXY": proxy},
        {},
    ]
    hub.broken = 500
    with ThreadPoolExecutor(len(settings)) as pool:
        unreachable, by_proxy, trouble = pool.map(lambda some: fetch(hub, tmp_path, **some), settings)
    assert "http://127.0.0.1:9 cannot be reached" in unreachable and "HTTPS_PROXY" in unreachable
    assert "proxy" in by_proxy and "HTTP_PROXY" in by_proxy and "secret" not in by_proxy
    assert "The weights of uni_v1 could not be fetched" in trouble and "500" in trouble


def test_a_repository_that_is_not_there_is_named(hub: Hub, tmp_path: Path) -> None:
    os.rename(tmp_path / "hub/MahmoodLab/uni", tmp_path / "hub/MahmoodLab/other")
    assert "MahmoodLab/uni is not there, or not for you (without a token" in fetch(hub, tmp_path)


def test_a_repository_without_weights_is_named(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "hub/MahmoodLab/uni/pytorch_model.bin").unlink()
    assert "MahmoodLab/uni holds neither model.safetensors nor pytorch_model.bin" in fetch(hub, tmp_path)
