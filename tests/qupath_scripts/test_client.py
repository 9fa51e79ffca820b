"""The scripts' client part, run by Java without QuPath, talks to servers: ours, and some that misbehave."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import zmq
from helpers.java_client import JavaClient, running_java_client
from helpers.servers import wait_until
from helpers.small_slides import MPP, PATCH_PX, small_model, small_slide
from PIL import Image

from bridge.install.scripts import ScriptSettings
from bridge.results.schema import SlideResult
from bridge.transport.curve import KeyPair, write_pair
from bridge.transport.discovery import ServerRecord, running_servers

SIDE = 5 * PATCH_PX
WHOLE_SLIDE: dict[str, Any] = {
    "slide": "made up",
    "source": {"name": "made up", "width": 384, "height": 320, "mpp": MPP, "fingerprint": "f"},
    "sample": "slide",
    "options": {"composites": 2, "any_stain": True},
    "write": {"tiles": "sampled", "classify": True},
}


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JavaClient]:
    with running_java_client(tmp_path_factory.mktemp("peer")) as peer:
        yield peer


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("runtime")
    folder.chmod(0o700)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEROHE_RUNTIME_DIR", str(folder))
        yield folder


@contextmanager
def serving(model: Path, *options: str) -> Iterator[ServerRecord]:
    before = {record.instance for record in running_servers()}
    command = [sys.executable, "-m", "bridge", "serve", "--model", str(model), "--device", "cpu", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    try:
        assert process.stdout.readline(), "the server did not start"
        yield next(record for record in running_servers() if record.instance not in before)
    finally:
        process.terminate()
        process.wait(timeout=30)
        process.stdout.close()


@pytest.fixture(scope="module")
def server(
    peer: JavaClient, runtime: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerRecord]:
    """The server that the scripts start by themselves."""
    home = tmp_path_factory.mktemp("herohe-bridge")
    write_settings(home, runtime, model=str(small_model(home / "small model.safetensors")))
    pid = peer.ask("connect", home=str(home))["ok"]["info"]["pid"]
    record = next(record for record in running_servers() if record.pid == pid)
    yield record
    assert peer.ask("stop", **address(record), finish=False)["ok"] == "stopped"


def address(record: ServerRecord) -> dict[str, Any]:
    tcp = next(endpoint for endpoint in record.endpoints if endpoint.startswith("tcp://"))
    return {"endpoint": tcp, "token": record.token, "pid": record.pid}


def test_hello_says_who_the_server_is(peer: JavaClient, server: ServerRecord) -> None:
    info = peer.ask("hello", **address(server))["ok"]
    assert (info["type"], info["model_sha256"], info["protocol"]) == ("info", server.model_sha256, 1)


def test_one_client_asks_again_and_again(peer: JavaClient, server: ServerRecord) -> None:
    assert peer.ask("hellos", **address(server), times=100)["ok"] == ["info"] * 100


def test_status_tells_the_load(peer: JavaClient, server: ServerRecord) -> None:
    assert peer.ask("status", **address(server))["ok"]["load"]["slides"] == 0


def test_composites_come_back_as_logits_and_contributions(peer: JavaClient, server: ServerRecord) -> None:
    found = peer.ask("score_composites", **address(server), side=SIDE, count=2)["ok"]
    assert found["header"]["scores"] == {"composites": 2, "cells": 25, "bits": 3, "members": 1}
    logits, shares = (np.frombuffer(base64.b64decode(f), "<f4") for f in found["frames"])
    assert np.allclose(shares.reshape(2, 25, 3).sum(axis=1), logits.reshape(2, 3), atol=1e-4)


def test_the_token_is_needed(peer: JavaClient, server: ServerRecord) -> None:
    refused = peer.ask("hello", **{**address(server), "token": "wrong"}, timeout_ms=1000)
    assert refused["code"] == "server_unavailable"


def test_another_model_is_refused_in_words(peer: JavaClient, server: ServerRecord) -> None:
    refused = peer.ask("score_composites", **address(server), side=SIDE, count=1, model_sha256="0" * 64)
    assert refused["code"] == "wrong_model"
    assert len(refused["failure"]) > 20


def test_a_slide_is_scored_from_its_file(peer: JavaClient, server: ServerRecord, tmp_path: Path) -> None:
    slide = small_slide(tmp_path / "a slide ü.tif")
    request = {
        "slide": "one",
        "path": str(slide),
        "source": {"name": "one", "width": 512, "height": 512},
        "sample": "classes",
        "region_classes": ["Tumor"],
        "options": {"composites": 2, "per_annotation": True},
        "write": {"tiles": "sampled", "classify": True},
    }
    id = "11111111-1111-4111-8111-111111111111"
    found = peer.ask("score_slide", **address(server), request=request, regions=tumour(id, 40, 40, 400, 300))
    answer = found["ok"]
    result = msgspec.convert(answer["result"], SlideResult, strict=False)
    assert result.outcome == "scored" and answer["reads"] == 0
    (planned,) = answer["markup"]["annotations"]
    assert planned["id"] == id
    assert planned["measurements"]["HER2-HE: composites"] == 2
    assert len(answer["markup"]["layout"]["regions"][id][0]) == 25


@pytest.mark.parametrize("encoding", ["raw", "png", "jpeg"])
def test_pixels_are_sent_when_the_server_cannot_open_the_slide(
    peer: JavaClient, server: ServerRecord, encoding: str
) -> None:
    request = {**WHOLE_SLIDE, "source": {**WHOLE_SLIDE["source"], "encoding": encoding}}
    answer = peer.ask("score_slide", **address(server), request=request, regions="")["ok"]
    assert answer["result"]["outcome"] == "scored"
    assert answer["reads"] > 0
    assert answer["markup"]["whole_image"]["name"] == "HER2-HE"


def test_encoded_pixels_are_those_of_the_picture(peer: JavaClient) -> None:
    box = {"x": 10, "y": 20, "width": 64, "height": 32, "out_width": 64, "out_height": 32}
    x, y = np.meshgrid(np.arange(10, 74), np.arange(20, 52))
    wanted = np.dstack([x, y, np.full_like(x, 7)]).astype(np.uint8)
    raw = base64.b64decode(peer.ask("encode", box=box, encoding="raw")["ok"])
    assert np.array_equal(np.frombuffer(raw, np.uint8).reshape(32, 64, 3), wanted)
    png = base64.b64decode(peer.ask("encode", box=box, encoding="png")["ok"])
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png))), wanted)
    jpeg = base64.b64decode(peer.ask("encode", box=box, encoding="jpeg")["ok"])
    assert np.abs(np.asarray(Image.open(io.BytesIO(jpeg))).astype(int) - wanted).mean() < 8


def test_a_reader_that_fails_is_said_in_words(peer: JavaClient, server: ServerRecord) -> None:
    found = peer.ask("score_slide", **address(server), request=WHOLE_SLIDE, regions="", broken_reader=True)
    assert "the disk is gone" in found["failure"]


@pytest.mark.parametrize("then", ["cancel", "interrupt"])
def test_cancelling_leaves_nothing_behind(peer: JavaClient, server: ServerRecord, then: str) -> None:
    request = {**WHOLE_SLIDE, "options": {"composites": 300, "any_stain": True}}
    found = peer.ask("score_slide", **address(server), request=request, regions="", then=then)
    assert found["code"] == "cancelled"
    assert peer.ask("status", **address(server))["ok"]["load"]["slides"] == 0
    ours = ("herohe", "iothread", "reaper-")
    # ZeroMQ's own threads end a moment after their context was closed.
    wait_until(lambda: not any(name.startswith(ours) for name in peer.ask("threads")["ok"]))


def test_over_curve_with_large_frames_until_it_is_killed(
    peer: JavaClient, runtime: Path, tmp_path: Path
) -> None:
    server_keys, client_keys = KeyPair.new(), KeyPair.new()
    _, key = write_pair(tmp_path / "server", "server", server_keys)
    write_pair(tmp_path / "allowed", "client", client_keys)
    model = small_model(tmp_path / "m.safetensors", seed=1, patch_px=256)
    side = 5 * 256
    request = {**WHOLE_SLIDE, "source": {**WHOLE_SLIDE["source"], "width": 2560, "height": 2304}}
    options = ("--bind", "tcp://127.0.0.1:*", "--key", str(key), "--allow", str(tmp_path / "allowed"))
    with serving(model, *options) as record:
        curve = {
            "publicKey": client_keys.public,
            "secretKey": client_keys.secret,
            "serverKey": server_keys.public,
        }
        far = {"endpoint": record.remote_endpoints[0], "curve": curve}
        assert peer.ask("hello", **far)["ok"]["model_sha256"] == record.model_sha256
        near = peer.ask("score_composites", **address(record), side=side, count=3)["ok"]
        assert peer.ask("score_composites", **far, side=side, count=3)["ok"]["frames"] == near["frames"]
        answer = peer.ask("score_slide", **far, request=request, regions="")["ok"]
        assert answer["reads"] > 0
        stranger = KeyPair.new()
        shut = {**curve, "publicKey": stranger.public, "secretKey": stranger.secret}
        found = peer.ask("hello", endpoint=far["endpoint"], curve=shut, timeout_ms=1000)
        assert "does not answer" in found["failure"]
        long = {**request, "options": {"composites": 300, "any_stain": True}}
        found = peer.ask("score_slide", **address(record), request=long, regions="", then="kill")
        assert found["code"] == "server_unavailable"
        assert "nothing was written" in found["failure"]


def test_the_running_server_is_found(
    peer: JavaClient, server: ServerRecord, runtime: Path, tmp_path: Path
) -> None:
    write_settings(tmp_path, runtime, model=server.model_path)
    found = peer.ask("connect", home=str(tmp_path))["ok"]
    assert found["local"] and found["info"]["pid"] == server.pid
    assert any("0.0.1" in notice and "update the scripts" in notice for notice in found["notices"])


def test_a_start_that_fails_is_explained(peer: JavaClient, runtime: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no model")
    write_settings(tmp_path, runtime, model=str(broken))
    found = peer.ask("connect", home=str(tmp_path))["ok"]
    assert str(broken) in found["failure"] and "herohe-bridge doctor" in found["failure"]


def test_a_missing_model_is_named(peer: JavaClient, runtime: Path, tmp_path: Path) -> None:
    write_settings(tmp_path, runtime, model=str(tmp_path / "gone.safetensors"))
    found = peer.ask("connect", home=str(tmp_path))["ok"]
    assert "gone.safetensors" in found["failure"] and "install --model" in found["failure"]


def test_a_missing_herohe_bridge_is_explained(peer: JavaClient, runtime: Path, tmp_path: Path) -> None:
    model = small_model(tmp_path / "m.safetensors", seed=4)
    write_settings(tmp_path, runtime, model=str(model), command=(str(tmp_path / "nowhere"), "-m", "bridge"))
    found = peer.ask("connect", home=str(tmp_path))["ok"]
    assert "nowhere" in found["failure"] and "herohe-bridge qupath install" in found["failure"]


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (lambda id: [b"", b"no json"], "protocol", "Restart it"),
        (lambda id: [b"", b'["a list"]'], "protocol", "Restart it"),
        (lambda id: [b"no delimiter", b"{}"], "protocol", "Restart it"),
        (lambda id: [b""], "protocol", "Restart it"),
        (lambda id: [b"", b"\xff\xfe\x00"], "protocol", "Restart it"),
        (lambda id: [b"", header(id, type="wonder")], "protocol", "wonder"),
        (lambda id: [b"", header(id, type=7)], "protocol", "Restart it"),
        (lambda id: [b"", header(id, type="result")], "protocol", "result"),
        (lambda id: [b"", header(id, protocol=2, type="info")], "protocol_version", "qupath install"),
        (lambda id: [b"", header(id, protocol=0, type="info")], "protocol_version", "where the server runs"),
        (lambda id: [b"", header("another", type="info")], "server_unavailable", "does not answer"),
        (
            lambda id: [b"", header(id, type="error", code="busy", problem="Full", remedy="Wait")],
            "busy",
            "Wait.",
        ),
    ],
)
def test_a_malformed_reply_to_hello(
    peer: JavaClient, answer: Callable[[str], Sequence[bytes]], code: str, words: str
) -> None:
    with answering(lambda request: [answer(request["id"])]) as endpoint:
        patience = 1000 if code == "server_unavailable" else 20_000
        found = peer.ask("hello", endpoint=endpoint, timeout_ms=patience)
    assert found["code"] == code
    assert words in found["failure"]


@pytest.mark.parametrize(
    "answers",
    [
        lambda id: [[b"", header(id, type="progress", stage="composites")]],
        lambda id: [[b"", header(id, type="read", read=1, boxes="all", encoding="raw")]],
        lambda id: [[b"", header(id, type="read", read=1, boxes=[{}], encoding="tiff")]],
        lambda id: [[b"", header(id, type="result", slide={"origin_x": 0, "origin_y": 0}), b"{}"]],
        lambda id: [[b"", header(id, type="result", slide={"origin_x": 0, "origin_y": 0}), b"[", b"{}"]],
        lambda id: [[b"", header(id, type="result")]],
    ],
)
def test_a_malformed_reply_to_a_slide(
    peer: JavaClient, answers: Callable[[str], Sequence[Sequence[bytes]]]
) -> None:
    def reply(request: dict[str, Any]) -> Sequence[Sequence[bytes]]:
        if request["type"] == "pixels":
            # What went wrong with the box was told to the server, which gives up.
            assert request["problem"] and request["images"] == []
            return [[b"", header(request["request"], type="error", code="protocol", problem="No", remedy="")]]
        return answers(request["id"])

    with answering(reply) as endpoint:
        found = peer.ask("score_slide", endpoint=endpoint, request=WHOLE_SLIDE, regions="")
    assert found["code"] == "protocol"


def test_a_request_that_nobody_heard_is_repeated(peer: JavaClient) -> None:
    seen: list[str] = []

    def second_time(request: dict[str, Any]) -> Sequence[Sequence[bytes]]:
        seen.append(request["id"])
        return [] if len(seen) == 1 else [[b"", header(request["id"], type="info")]]

    with answering(second_time) as endpoint:
        assert peer.ask("status", endpoint=endpoint)["ok"]["type"] == "info"
    assert len(seen) == 2 and seen[0] == seen[1]


def header(id: str, *, protocol: int = 1, **fields: Any) -> bytes:
    return json.dumps({"protocol": protocol, "id": id, **fields}).encode()


def tumour(id: str, x: int, y: int, width: int, height: int) -> str:
    ring = [[x, y], [x + width, y], [x + width, y + height], [x, y + height], [x, y]]
    feature = {
        "type": "Feature",
        "id": id,
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"objectType": "annotation", "classification": {"name": "Tumor", "color": [200, 0, 0]}},
    }
    return json.dumps({"type": "FeatureCollection", "features": [feature]})


def write_settings(
    home: Path, runtime: Path, *, model: str, command: tuple[str, ...] = (sys.executable, "-m", "bridge")
) -> None:
    settings = ScriptSettings(
        version="0.0.1",
        protocol=1,
        command=command,
        model=model,
        runtime_directory=str(runtime),
        idle_timeout_s=600,
    )
    (home / "settings.json").write_bytes(msgspec.json.encode(settings))


@contextmanager
def answering(reply: Callable[[dict[str, Any]], Sequence[Sequence[bytes]]]) -> Iterator[str]:
    """A server that answers as it is told."""
    context = zmq.Context()
    socket = context.socket(zmq.ROUTER)
    socket.linger = 0
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    ended = threading.Event()

    def serve() -> None:
        while not ended.is_set():
            if socket.poll(20):
                who, _, head, *_ = socket.recv_multipart()
                for parts in reply(json.loads(head)):
                    socket.send_multipart([who, *parts])

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"tcp://127.0.0.1:{port}"
    finally:
        ended.set()
        thread.join()
        context.destroy(linger=0)
