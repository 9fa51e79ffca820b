"""``score_slide``: whole slides, scored by the server from its own disk, or with pixels from the client."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from helpers.damaged_slides import make_deadly
from helpers.scripted_worker import WAIT_FOR_GATE
from helpers.servers import PATIENCE_S, Peer, Running, scripted, serving, wait_until
from helpers.small_slides import MPP, drawn, small_model, small_slide, tissue_picture
from numpy.typing import NDArray

from bridge.annotations.geojson import annotations_from_geojson
from bridge.annotations.geojson_writing import write_annotations
from bridge.annotations.regions import build_regions
from bridge.client.address import ServerAddress
from bridge.client.client import Client, SlideAnswer
from bridge.client.locate import FixedServer
from bridge.protocol.codec import new_id
from bridge.protocol.messages import (
    ErrorReply,
    ImageHeader,
    Pixels,
    PixelSource,
    ProgressReply,
    Read,
    ReadBox,
    Result,
    ScoreSlide,
)
from bridge.results.schema import Outcome, SlideResult
from bridge.scoring.options import ScoreOptions, WriteOptions
from bridge.scoring.slide import score_slide
from bridge.server.server import ServerSettings
from bridge.transport.curve import KeyPair, write_pair
from herohe_model.engines.scorer import Scorer
from herohe_model.errors import RegionError, SlideFatalError, SlideNotFoundError, SlideUnreadableError
from herohe_model.model.compute import Compute
from herohe_model.slides.slide import Slide
from herohe_model.synthetic.slides import write_mirax, write_tiff

OPTIONS = ScoreOptions(composites=3, seed=5, per_annotation=True)


@pytest.fixture(autouse=True, scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEROHE_RUNTIME_DIR", str(tmp_path_factory.mktemp("run") / "r"))
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("model") / "m.safetensors")


@pytest.fixture(scope="module")
def real(model: Path) -> Iterator[Running]:
    with serving(ServerSettings(model, workers=(Compute("cpu"),))) as running:
        yield running


@pytest.fixture
def gated(tmp_path: Path) -> Iterator[Running]:
    with serving(scripted(tmp_path / "server", slides_at_once=1)) as running:
        yield running
        running.open_gate()


@pytest.fixture(scope="module")
def mirax(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide whose scanned area begins at (256, 512), with the regions that a pathologist drew beside it."""
    path = tmp_path_factory.mktemp("mirax") / "Präparat 7.mrxs"
    write_mirax(path, tissue_picture(512), mpp=MPP, origin=(256, 512), canvas=(2048, 2048), quality=95)
    annotations = (drawn(300, 600, 200, 200), drawn(560, 800, 150, 150, id="a2", class_name="Stroma"))
    write_annotations(path, annotations, origin=(256, 512))
    return path


def regions_of(slide: Path) -> bytes:
    """GeoJSON in QuPath's pixels."""
    return slide.with_name(f"{slide.name}.geojson").read_bytes()


def in_process(slide_path: Path, model: Path, request: ScoreSlide) -> SlideResult:
    """What the same slide and regions score without a server."""
    with Slide(slide_path) as slide, Scorer.load(model, Compute("cpu")) as scorer:
        origin = (slide.bounds.x, slide.bounds.y)
        regions = build_regions(
            annotations_from_geojson(regions_of(slide_path), origin),
            region_classes=request.region_classes,
            exclude_classes=request.exclude_classes,
            slide_box=slide.bounds,
            everything=request.sample == "all",
        )
        return score_slide(slide, regions, request.options, scorer, entry=request.entry, slide=request.slide)


def source_of(slide: Slide) -> PixelSource:
    """The slide as QuPath has it open: cropped to its bounds."""
    return PixelSource(
        name=slide.path.name,
        width=slide.bounds.width,
        height=slide.bounds.height,
        mpp=slide.mpp,
        level_downsamples=slide.level_downsamples,
        background=slide.background,
        origin_x=slide.bounds.x,
        origin_y=slide.bounds.y,
        fingerprint=slide.fingerprint,
    )


class QuPath:
    """Reads boxes of the image that it shows."""

    def __init__(self, slide: Slide) -> None:
        self.slide = slide

    def __call__(self, box: ReadBox) -> NDArray[np.uint8]:
        x, y = box.x + self.slide.bounds.x, box.y + self.slide.bounds.y
        return self.slide.read_box(x, y, box.width, box.height, (box.out_width, box.out_height))


def result_of(answer: SlideAnswer) -> SlideResult:
    return msgspec.json.decode(answer.result, type=SlideResult)


@pytest.mark.parametrize(
    ("sample", "classes"),
    [("all", ()), ("classes", ("Tumor",)), ("slide", ())],
    ids=["all", "classes", "slide"],
)
def test_a_slide_scores_byte_for_byte_as_in_process(
    real: Running, model: Path, mirax: Path, sample: str, classes: tuple[str, ...]
) -> None:
    request = msgspec.convert(
        {
            "id": new_id(),
            "slide": mirax.name,
            "path": str(mirax),
            "sample": sample,
            "region_classes": classes,
        },
        ScoreSlide,
    )
    request = msgspec.structs.replace(request, options=OPTIONS)
    with Client(FixedServer(real.address)) as client:
        answer = client.score_slide(request, regions_of(mirax)).result(PATIENCE_S)
    expected = in_process(mirax, model, request)
    assert expected.outcome is Outcome.SCORED
    assert answer.origin == (256, 512)
    assert answer.result == msgspec.json.encode(expected)


def test_progress_is_told_from_the_beginning_to_the_end(real: Running, mirax: Path) -> None:
    heard: list[ProgressReply] = []
    request = ScoreSlide(id=new_id(), slide="s", path=str(mirax), options=ScoreOptions(composites=60))
    with Client(FixedServer(real.address)) as client:
        client.score_slide(request, regions_of(mirax), progress=heard.append).result(PATIENCE_S)
    assert all(0 <= p.done <= p.total for p in heard)
    assert {p.stage for p in heard} <= {"waiting", "foreground", "composites"}
    assert [p.done for p in heard if p.stage == "composites"] == sorted(
        p.done for p in heard if p.stage == "composites"
    )


def test_progress_is_told_at_least_twice_a_second(gated: Running, tmp_path: Path) -> None:
    path = slow_slide(tmp_path / "slow.tif")
    with Peer(gated.record) as peer:
        peer.send(ScoreSlide(id="s", slide="s", path=str(path), sample="slide", options=SLOW), b"")
        times = []
        while len(times) < 8:
            assert isinstance(peer.receive()[0], ProgressReply)
            times.append(time.monotonic())
    assert np.median(np.diff(times)) <= 0.5


def test_with_pixels_from_the_client_everything_is_the_same(real: Running, model: Path, mirax: Path) -> None:
    with Slide(mirax) as slide, Client(FixedServer(real.address)) as client:
        request = ScoreSlide(
            id=new_id(),
            slide=mirax.name,
            path=str(mirax.with_name("hidden.mrxs")),
            source=source_of(slide),
            options=OPTIONS,
        )
        answer = client.score_slide(request, regions_of(mirax), read=QuPath(slide)).result(PATIENCE_S)
    found, expected = result_of(answer), in_process(mirax, model, request)
    assert found.union == expected.union
    assert found.annotations == expected.annotations
    assert any("hidden.mrxs" in warning for warning in found.warnings)


def test_a_file_that_holds_another_image_than_the_client_shows_is_not_read(
    real: Running, mirax: Path, tmp_path: Path
) -> None:
    other = small_slide(tmp_path / "other.tif", side=384)
    with Slide(mirax) as slide, Client(FixedServer(real.address)) as client:
        request = ScoreSlide(
            id=new_id(),
            slide="s",
            path=str(other),
            source=source_of(slide),
            options=ScoreOptions(composites=1),
        )
        found = result_of(
            client.score_slide(request, regions_of(mirax), read=QuPath(slide)).result(PATIENCE_S)
        )
    assert found.outcome is Outcome.SCORED
    assert any("QuPath shows another image" in warning for warning in found.warnings)


def test_what_the_script_has_to_write_comes_with_the_result(real: Running, mirax: Path) -> None:
    with Slide(mirax) as slide, Client(FixedServer(real.address)) as client:
        request = ScoreSlide(
            id=new_id(), slide="s", path=str(mirax), source=source_of(slide), write=WriteOptions()
        )
        answer = client.score_slide(request, regions_of(mirax)).result(PATIENCE_S)
        assert msgspec.json.decode(answer.plan)["annotations"]
        bare = msgspec.structs.replace(request, id=new_id(), write=None)
        assert client.score_slide(bare, regions_of(mirax)).result(PATIENCE_S).plan == b""


def test_without_tissue_the_outcome_says_so(gated: Running, tmp_path: Path) -> None:
    write_tiff(tmp_path / "glass.tif", np.full((400, 400, 3), 245, dtype=np.uint8), mpp=MPP)
    request = ScoreSlide(
        id=new_id(), slide="s", path=str(tmp_path / "glass.tif"), sample="slide", options=SLOW
    )
    with Client(FixedServer(gated.address)) as client:
        found = result_of(client.score_slide(request, b"").result(PATIENCE_S))
    assert found.outcome is Outcome.INSUFFICIENT_TISSUE


def test_errors_are_those_of_the_command_line(gated: Running, tmp_path: Path) -> None:
    slide = small_slide(tmp_path / "s.tif")
    with Client(FixedServer(gated.address)) as client:
        absent = ScoreSlide(id=new_id(), slide="s", path=str(tmp_path / "absent.svs"))
        with pytest.raises(SlideNotFoundError, match=r"absent\.svs"):
            client.score_slide(absent, b"").result(PATIENCE_S)
        there = ScoreSlide(id=new_id(), slide="s", path=str(slide))
        with pytest.raises(RegionError, match="regions of s"):
            client.score_slide(there, b"{nonsense").result(PATIENCE_S)
    assert gated.info().load.slides == 0


def test_a_slide_that_ends_its_reader_harms_none_of_three_others(real: Running, tmp_path: Path) -> None:
    bad = make_deadly(small_slide(tmp_path / "bad.tif"), index=5)
    good = [small_slide(tmp_path / f"good {number}.tif", seed=number) for number in range(3)]

    def asked(path: Path) -> ScoreSlide:
        return ScoreSlide(id=new_id(), slide=path.name, path=str(path), sample="slide", options=OPTIONS)

    with ExitStack() as stack:
        clients = [stack.enter_context(Client(FixedServer(real.address))) for _ in range(4)]
        failing = clients[3].score_slide(asked(bad), b"")
        answers = [client.score_slide(asked(path), b"") for client, path in zip(clients, good, strict=False)]
        with pytest.raises(SlideFatalError, match=r"bad\.tif is damaged"):
            failing.result(PATIENCE_S)
        assert [result_of(a.result(PATIENCE_S)).outcome for a in answers] == [Outcome.SCORED] * 3
        # The server is still the same one.
        assert clients[3].score_slide(asked(good[0]), b"").result(PATIENCE_S).result


def test_a_client_that_cannot_read_its_image_is_told_what_it_said(gated: Running, tmp_path: Path) -> None:
    def fail(_: ReadBox) -> NDArray[np.uint8]:
        raise OSError("the OMERO session has expired")

    with Slide(small_slide(tmp_path / "s.tif")) as slide, Client(FixedServer(gated.address)) as client:
        request = ScoreSlide(id=new_id(), slide="s", source=source_of(slide), sample="slide", options=SLOW)
        with pytest.raises(SlideUnreadableError, match="OMERO session"):
            client.score_slide(request, b"", read=fail).result(PATIENCE_S)


SLOW = ScoreOptions(artefacts="ignore")
"""Of a slide that is none: its colour is an order to the scripted worker."""


def slow_slide(path: Path) -> Path:
    """A slide of whose composites a scripted worker waits for the gate."""
    picture = np.zeros((400, 400, 3), dtype=np.uint8)
    picture[:] = WAIT_FOR_GATE, 200, 90
    write_tiff(path, picture, mpp=MPP, quality=None)
    return path


def test_cancel_stops_a_slide_and_leaves_nothing_behind(gated: Running, tmp_path: Path) -> None:
    slide = slow_slide(tmp_path / "slow.tif")
    with Client(FixedServer(gated.address)) as client:
        first, second = (
            client.score_slide(
                ScoreSlide(id=new_id(), slide="s", path=str(slide), sample="slide", options=SLOW), b""
            )
            for _ in range(2)
        )
        wait_until(lambda: len(gated.begun()) == 1)
        # One of them is at work, the other has not been started.
        assert second.cancel()
        wait_until(lambda: gated.info().load.slides == 1)
        assert first.cancel()
        wait_until(lambda: gated.info().load.slides == 0)
        assert gated.info().load.queued == 0
        gated.open_gate()
        wait_until(lambda: gated.info().load.in_work == 0)
        assert len(gated.begun()) == 1


def test_slides_of_several_clients_are_scored_in_turn(gated: Running, tmp_path: Path) -> None:
    slow, quick = slow_slide(tmp_path / "slow.tif"), small_slide(tmp_path / "quick.tif")
    ended: list[str] = []
    with Client(FixedServer(gated.address)) as flood, Client(FixedServer(gated.address)) as modest:
        futures = []
        for client, path, name in (
            (flood, slow, "f0"),
            (flood, quick, "f1"),
            (flood, quick, "f2"),
            (modest, quick, "m0"),
        ):
            options = ScoreOptions(composites=1, artefacts="ignore")
            request = ScoreSlide(id=new_id(), slide=name, path=str(path), sample="slide", options=options)
            future = client.score_slide(request, b"")
            future.add_done_callback(lambda done: ended.append(result_of(done.result()).slide))
            futures.append(future)
            wait_until(lambda: gated.info().load.slides == len(futures))
        gated.open_gate()
        for future in futures:
            future.result(PATIENCE_S)
    assert ended.index("m0") < ended.index("f2")


def test_a_client_that_comes_back_is_asked_again_for_the_same_pixels(gated: Running, tmp_path: Path) -> None:
    with Slide(small_slide(tmp_path / "s.tif")) as slide:
        source = source_of(slide)
        request = ScoreSlide(id="kept", slide="s", source=source, sample="slide", options=SLOW)
        with Peer(gated.record) as before:
            before.send(request, b"")
            asked, _ = before.answer()
            assert isinstance(asked, Read)
        with Peer(gated.record) as after:
            after.send(request, b"")
            again, _ = after.answer()
            assert again == asked
            read = QuPath(slide)
            while isinstance(again, Read):
                images = tuple(ImageHeader((box.out_height, box.out_width, 3)) for box in again.boxes)
                answer = Pixels(id=new_id(), request="kept", read=again.read, images=images)
                after.send(answer, *[read(box).tobytes() for box in again.boxes])
                again, _ = after.answer()
            assert isinstance(again, Result)


def test_pixels_that_nobody_asked_for_are_refused(gated: Running, tmp_path: Path) -> None:
    with Slide(small_slide(tmp_path / "s.tif")) as slide, Peer(gated.record) as peer:
        peer.send(Pixels(id="p", request="none", read=0, problem="x"))
        assert peer.error().code == "unknown_request"
        peer.send(ScoreSlide(id="s", slide="s", source=source_of(slide), sample="slide", options=SLOW), b"")
        asked, _ = peer.answer()
        assert isinstance(asked, Read)
        peer.send(Pixels(id="p", request="s", read=asked.read + 1, problem="x"))
        assert peer.error().code == "unknown_request"
        small = tuple(ImageHeader((1, 1, 3)) for _ in asked.boxes)
        peer.send(
            Pixels(id="p", request="s", read=asked.read, images=small), *[bytes(3) for _ in asked.boxes]
        )
        error = peer.error()
        assert (error.id, error.code) == ("p", "malformed")
        peer.send(Pixels(id="p", request="s", read=asked.read, problem="closed"))
        last = peer.error()
        assert (last.id, last.code) == ("s", "slide_unreadable")


def test_the_slide_of_a_client_that_is_gone_is_given_up(
    gated: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.server.broker.GONE_S", 0.1)
    with Slide(small_slide(tmp_path / "s.tif")) as slide, Peer(gated.record) as peer:
        peer.send(ScoreSlide(id="s", slide="s", source=source_of(slide), sample="slide", options=SLOW), b"")
        assert isinstance(peer.answer()[0], Read)
    wait_until(lambda: gated.info().load.slides == 0)
    wait_until(lambda: not [t for t in threading.enumerate() if t.name.startswith("slide ")])


def test_clients_of_other_machines_may_name_only_slides_that_are_shared(tmp_path: Path) -> None:
    (tmp_path / "slides").mkdir()
    shared = small_slide(tmp_path / "slides" / "shared.tif")
    secret = small_slide(tmp_path / "secret.tif")
    (tmp_path / "slides" / "link.tif").symlink_to(secret)
    mine, server_key = KeyPair.new(), KeyPair.new()
    write_pair(tmp_path / "allowed", "me", mine)
    settings = replace(
        scripted(
            tmp_path / "server", binds=("tcp://127.0.0.1:*",), key=server_key, allow=tmp_path / "allowed"
        ),
        slides_roots=(tmp_path / "slides",),
    )
    with serving(settings) as running:
        address = ServerAddress(running.record.remote_endpoints[0], server_key=server_key.public, key=mine)
        with Client(FixedServer(address)) as client:
            assert client.server_info.paths
            for path, allowed in (
                (shared, True),
                (secret, False),
                (tmp_path / "slides" / ".." / "secret.tif", False),
                (tmp_path / "slides" / "link.tif", False),
            ):
                request = ScoreSlide(id=new_id(), slide="s", path=str(path), sample="slide", options=SLOW)
                future = client.score_slide(request, b"")
                if allowed:
                    assert result_of(future.result(PATIENCE_S)).outcome is Outcome.SCORED
                else:
                    with pytest.raises(SlideNotFoundError, match="not in a folder"):
                        future.result(PATIENCE_S)


def test_a_slide_of_another_model_is_refused(gated: Running, tmp_path: Path) -> None:
    with Peer(gated.record) as peer:
        peer.send(ScoreSlide(id="s", slide="s", path="p", model_sha256="f" * 64), b"")
        reply = peer.error()
    assert isinstance(reply, ErrorReply)
    assert reply.code == "wrong_model"


def test_an_error_of_the_callers_own_ends_the_callers_request_alone(gated: Running, tmp_path: Path) -> None:
    def listener(_: ProgressReply) -> None:
        raise ValueError("the window was closed")

    path = slow_slide(tmp_path / "slow.tif")
    with Client(FixedServer(gated.address)) as client:
        request = ScoreSlide(id=new_id(), slide="s", path=str(path), sample="slide", options=SLOW)
        with pytest.raises(ValueError, match="window"):
            client.score_slide(request, b"", progress=listener).result(PATIENCE_S)
        wait_until(lambda: gated.info().load.slides == 0)
        gated.open_gate()
        again = msgspec.structs.replace(request, id=new_id())
        assert result_of(client.score_slide(again, b"").result(PATIENCE_S)).outcome is Outcome.SCORED
