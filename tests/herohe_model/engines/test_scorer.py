from __future__ import annotations

import gc
import subprocess
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from herohe_model.engines.openvino_engine import openvino_precisions
from herohe_model.engines.scorer import Scorer
from herohe_model.errors import CancelledError, DeviceError, ModelFileError, OptionError
from herohe_model.grades import Target, bit_probabilities, grade_of, ihc_probabilities
from herohe_model.model.card import ModelCard
from herohe_model.model.checkpoint import join_members, save_model
from herohe_model.model.compute import Compute
from herohe_model.model.device import choose_device, choose_precision, describe_devices, find_devices
from herohe_model.model.machine import default_threads
from herohe_model.model.new_model import new_model
from herohe_model.model.score import CompositeScore

PATCH_PX = 32
SIDE = 5 * PATCH_PX
BACKBONES = ["test_resnet", "test_efficientnet", "resnest14d", "test_vit"]
# Every device that the machine has: where there is a GPU, it is tested too.
ON_EVERY_DEVICE = pytest.mark.parametrize("device", [device.name for device in find_devices()])


def composites(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Composites of noise on very different backgrounds."""
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 200, (count, 1, 1, 3))
    return (base + rng.integers(0, 56, (count, SIDE, SIDE, 3))).astype(np.uint8)


class HeldPixels(np.ndarray[Any, np.dtype[np.uint8]]):
    """A composite whose copying waits until it may go on; what is submitted after it stays in the queue."""

    begun: threading.Event
    go_on: threading.Event

    @classmethod
    def of(cls, pixels: NDArray[np.uint8]) -> HeldPixels:
        held = pixels.view(cls)
        held.begun, held.go_on = threading.Event(), threading.Event()
        return held

    def __array_function__(self, *args: Any) -> Any:
        self.begun.set()
        self.go_on.wait()
        return super().__array_function__(*args)


def model(backbone: str = "test_resnet", *, seed: int = 0) -> tuple[ModelCard, dict[str, torch.Tensor]]:
    return new_model(backbone, head="free", target="ihc+ish", patch_px=PATCH_PX, seed=seed)


def same(a: CompositeScore, b: CompositeScore) -> bool:
    return a.logits.tobytes() == b.logits.tobytes() and a.contributions.tobytes() == b.contributions.tobytes()


def probabilities(scores: list[CompositeScore]) -> NDArray[np.float64]:
    return bit_probabilities(np.array([score.logits for score in scores]))


@ON_EVERY_DEVICE
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_composite_scores_the_same_alone_and_among_others(
    backbone: str, precision: str, device: str
) -> None:
    pixels = composites(4)
    with Scorer(*model(backbone), Compute(device, precision)) as scorer:
        together = scorer.score(pixels)
        backwards = scorer.score(pixels[::-1])[::-1]
        alone = [scorer.score([composite])[0] for composite in pixels]
    for a, b, c in zip(together, backwards, alone, strict=True):
        assert same(a, b)
        assert same(a, c)
    assert len({score.logits.tobytes() for score in together}) == 4


def test_another_scorer_of_the_same_file_scores_the_same_to_the_last_bit(tmp_path: Path) -> None:
    sha256 = save_model(tmp_path / "m.safetensors", *model())
    pixels = composites(2)
    with Scorer.load(tmp_path / "m.safetensors", Compute("cpu")) as first:
        a = first.score(pixels)
        assert first.info.model_sha256 == sha256
        assert first.info.card == model()[0]
        assert first.info.device == "cpu"
    with Scorer.load(tmp_path / "m.safetensors", Compute("cpu")) as second:
        assert all(map(same, a, second.score(pixels)))


@ON_EVERY_DEVICE
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_contributions_add_up_to_the_logits(backbone: str, precision: str, device: str) -> None:
    with Scorer(*model(backbone), Compute(device, precision)) as scorer:
        assert scorer.info.precision == precision
        scores = scorer.score(composites(2))
    for score in scores:
        assert score.logits.shape == (4,)
        assert score.contributions.shape == (25, 4)
        assert score.logits.dtype == score.contributions.dtype == np.float32
        assert np.abs(score.contributions.sum(axis=0, dtype=np.float64) - score.logits).max() < 1e-4


@ON_EVERY_DEVICE
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_device_and_precision_is_within_a_hundredth_of_the_cpu_in_fp32(
    backbone: str, device: str
) -> None:
    card, state = model(backbone)
    # Random heads say one half to everything; this one has opinions.
    state = {**state, "head.weight": state["head.weight"] * 5}
    with Scorer(card, state, Compute("cpu", "fp32")) as scorer:
        reference = scorer.score(composites(4))
    for precision, tolerance in (("fp32", 1e-4), ("bf16", 0.01)):
        with Scorer(card, state, Compute(device, precision, "torch")) as scorer:
            scores = scorer.score(composites(4))
        assert np.abs(probabilities(scores) - probabilities(reference)).max() < tolerance
        assert same(scores[0], reference[0]) == (precision == "fp32" and device == "cpu")


@pytest.mark.parametrize("precision", openvino_precisions())
@pytest.mark.parametrize("backbone", ["test_resnet", "test_efficientnet"])
def test_openvino_scores_as_pytorch_does(backbone: str, precision: str) -> None:
    card, state = model(backbone)
    state = {**state, "head.weight": state["head.weight"] * 5}
    pixels = composites(3)
    with Scorer(card, state, Compute("cpu", "fp32", "torch")) as scorer:
        assert scorer.info.engine.startswith("torch ")
        reference = scorer.score(pixels)
    with Scorer(card, state, Compute("cpu", precision, "openvino")) as scorer:
        assert scorer.info.engine.startswith("openvino ")
        assert scorer.info.precision == precision
        scores = scorer.score(pixels)
        backwards = scorer.score(pixels[::-1])[::-1]
    assert all(map(same, scores, backwards))
    tolerance = 1e-4 if precision == "fp32" else 0.01
    assert np.abs(probabilities(scores) - probabilities(reference)).max() < tolerance
    target = Target(card.target)
    for score, exact in zip(scores, reference, strict=True):
        grades = [grade_of(ihc_probabilities(q, target.steps)) for q in probabilities([score, exact])]
        assert grades[0] == grades[1]
        assert score.contributions.shape == (25, 4)
        assert np.abs(score.contributions - exact.contributions).max() < 0.01
        assert np.abs(score.contributions.sum(axis=0, dtype=np.float64) - score.logits).max() < 1e-4


def test_every_scorer_on_a_machine_computes_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEROHE_CACHE_DIR", str(tmp_path / "cache"))
    # Large enough that engines are compared.
    card, state = new_model("test_resnet", head="free", target="ihc+ish", patch_px=160)
    save_model(tmp_path / "m.safetensors", card, state)
    pixels = np.random.default_rng(0).integers(0, 256, (1, card.side_px, card.side_px, 3), dtype=np.uint8)
    found = []
    for _ in range(2):
        with Scorer.load(tmp_path / "m.safetensors", Compute("cpu")) as scorer:
            found.append((scorer.info.engine, scorer.info.precision, scorer.score(pixels)[0]))
    assert found[0][:2] == found[1][:2]
    assert same(found[0][2], found[1][2])
    assert len(list((tmp_path / "cache" / "engines").glob("*.json"))) == 1


@pytest.mark.parametrize("precision", openvino_precisions())
def test_openvino_gives_the_same_bytes_in_another_process(precision: str, tmp_path: Path) -> None:
    save_model(tmp_path / "m.safetensors", *model())
    pixels = composites(2)
    np.save(tmp_path / "pixels.npy", pixels)
    program = """
import sys
import numpy as np
from herohe_model.engines.scorer import Scorer
from herohe_model.model.compute import Compute
folder, precision = sys.argv[1:]
with Scorer.load(folder + "/m.safetensors", Compute("cpu", precision, "openvino"), 2) as scorer:
    for score in scorer.score(np.load(folder + "/pixels.npy")):
        print(score.logits.tobytes().hex(), score.contributions.tobytes().hex())
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, str(tmp_path), precision],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    with Scorer.load(tmp_path / "m.safetensors", Compute("cpu", precision, "openvino"), 2) as scorer:
        here = [f"{s.logits.tobytes().hex()} {s.contributions.tobytes().hex()}" for s in scorer.score(pixels)]
    assert done.stdout.splitlines() == here


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_an_ensemble_scores_the_mean_of_its_members(engine: str) -> None:
    (card, first), (_, second) = model(seed=1), model(seed=2)
    both = ModelCard(**{**{f: getattr(card, f) for f in card.__struct_fields__}, "members": 2})
    pixels = composites(2)
    results = []
    for members, state in ((card, first), (card, second), (both, join_members([first, second]))):
        with Scorer(members, state, Compute("cpu", "fp32", engine)) as scorer:
            results.append(scorer.score(pixels))
    for a, b, mean in zip(*results, strict=True):
        np.testing.assert_allclose(mean.logits, (a.logits + b.logits) / 2, rtol=0, atol=1e-6)
        np.testing.assert_allclose(
            mean.contributions, (a.contributions + b.contributions) / 2, rtol=0, atol=1e-6
        )
        assert np.abs(mean.contributions.sum(axis=0, dtype=np.float64) - mean.logits).max() < 1e-4


def test_an_ordered_model_gives_ordered_logits() -> None:
    card, state = new_model("test_resnet", head="ordered", target="ihc+ish", patch_px=PATCH_PX)
    with Scorer(card, state, Compute("cpu")) as scorer:
        for score in scorer.score(composites(3)):
            assert (np.diff(score.logits) >= 0).all()


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((SIDE, SIDE, 3), dtype=np.float32),
        np.zeros((SIDE, SIDE + 1, 3), dtype=np.uint8),
        np.zeros((SIDE, SIDE, 4), dtype=np.uint8),
        np.zeros((3, SIDE, SIDE), dtype=np.uint8),
        np.zeros((1, SIDE, SIDE, 3), dtype=np.uint8),
    ],
    ids=["floats", "not square", "RGBA", "channels first", "a batch"],
)
def test_pixels_that_are_no_composite_are_refused(pixels: NDArray[np.uint8]) -> None:
    with (
        Scorer(*model(), Compute("cpu")) as scorer,
        pytest.raises(OptionError, match=rf"uint8 of shape \({SIDE}, {SIDE}, 3\), not"),
    ):
        scorer.submit(pixels)


def test_read_only_and_strided_pixels_score_like_any_others() -> None:
    pixels = composites(1)[0]
    frame = np.frombuffer(pixels.tobytes(), dtype=np.uint8).reshape(pixels.shape)
    within = np.zeros((SIDE, 2 * SIDE, 3), dtype=np.uint8)[:, ::2]
    within[:] = pixels
    with Scorer(*model(), Compute("cpu")) as scorer:
        plain, read_only, strided = scorer.score([pixels, frame, within])
    assert not frame.flags.writeable
    assert same(plain, read_only)
    assert same(plain, strided)


def test_many_threads_may_submit_at_once() -> None:
    pixels = composites(12)
    with Scorer(*model(), Compute("cpu")) as scorer, ThreadPoolExecutor(4) as pool:
        expected = scorer.score(pixels)
        futures = list(pool.map(scorer.submit, pixels))
        assert all(same(future.result(), score) for future, score in zip(futures, expected, strict=True))


def test_closing_cancels_what_has_not_begun_and_finishes_what_has() -> None:
    scorer = Scorer(*model(), Compute("cpu"))
    pixels = composites(1)[0]
    held = HeldPixels.of(pixels)
    first = scorer.submit(held)
    held.begun.wait()
    waiting = [scorer.submit(pixels) for _ in range(3)]
    closing = threading.Thread(target=scorer.close)
    closing.start()
    wait(waiting)
    held.go_on.set()
    closing.join()
    assert first.result().logits.shape == (4,)
    assert all(future.cancelled() for future in waiting)
    with pytest.raises(CancelledError, match="The scorer is closed"):
        scorer.submit(pixels)
    scorer.close()


def test_a_composite_may_be_cancelled_before_it_begins() -> None:
    pixels = composites(2)
    held = HeldPixels.of(pixels[0])
    with Scorer(*model(), Compute("cpu")) as scorer:
        first = scorer.submit(held)
        held.begun.wait()
        second, third = scorer.submit(pixels[1]), scorer.submit(pixels[0])
        assert second.cancel()
        assert not first.cancel()
        held.go_on.set()
        assert same(third.result(), first.result())


def test_a_callback_may_close_the_scorer_and_submit_to_it() -> None:
    scorer = Scorer(*model(), Compute("cpu"))
    pixels = composites(1)[0]
    held = HeldPixels.of(pixels)
    outcome: Future[type[Exception]] = Future()

    def close_and_submit(_: object) -> None:
        scorer.close()
        try:
            scorer.submit(pixels)
        except CancelledError as error:
            outcome.set_result(type(error))

    scorer.submit(held).add_done_callback(close_and_submit)
    held.go_on.set()
    assert outcome.result(60) is CancelledError


def test_a_forgotten_scorer_ends_its_thread() -> None:
    before = set(threading.enumerate())
    scorer = Scorer(*model(), Compute("cpu"))
    scorer.score(composites(1))
    (thread,) = set(threading.enumerate()) - before
    del scorer
    gc.collect()
    thread.join(60)
    assert not thread.is_alive()


def test_the_callers_thread_counts_stay_as_they_are() -> None:
    def count() -> int:
        return torch.get_num_threads()

    here = torch.get_num_threads()
    with ThreadPoolExecutor(1) as pool:
        fresh = pool.submit(count).result()
    within: list[int] = []
    held = HeldPixels.of(composites(1)[0])
    with Scorer(*model(), Compute("cpu"), threads=3) as scorer:
        future = scorer.submit(held)
        future.add_done_callback(lambda _: within.append(torch.get_num_threads()))
        held.begun.wait()
        held.go_on.set()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(count).result() == fresh
    assert torch.get_num_threads() == here
    assert within == [3]


def test_the_callers_random_numbers_and_switches_stay_as_they_are() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with Scorer(*model(), Compute("cpu", "bf16")) as scorer:
        scorer.score(composites(1))
    assert torch.equal(torch.rand(3), expected)
    assert not torch.is_inference_mode_enabled()
    assert not torch.is_autocast_enabled("cpu")
    assert torch.is_grad_enabled()


def test_a_network_that_overflows_says_so_instead_of_scoring() -> None:
    card, state = model()
    state = {**state, "head.weight": torch.full_like(state["head.weight"], 3e38)}
    with (
        Scorer(card, state, Compute("cpu", "fp32"), what="m.safetensors") as scorer,
        pytest.raises(ModelFileError, match=r"m\.safetensors gave a composite no finite score"),
    ):
        scorer.score(composites(1))


def test_a_composite_that_fails_stops_no_other() -> None:
    class Unreadable(np.ndarray[Any, np.dtype[np.uint8]]):
        def __array_function__(self, *args: Any) -> Any:
            raise OSError("the frame is gone")

    pixels = composites(2)
    with Scorer(*model(), Compute("cpu")) as scorer:
        futures = [scorer.submit(p) for p in (pixels[0], pixels[1].view(Unreadable), pixels[0])]
        with pytest.raises(OSError, match="the frame is gone"):
            futures[1].result()
        assert same(futures[0].result(), futures[2].result())


def test_weights_that_do_not_fit_are_refused_with_the_files_name(tmp_path: Path) -> None:
    card, state = model()
    del state["head.bias"]
    save_model(tmp_path / "m.safetensors", card, state)
    with pytest.raises(
        ModelFileError, match=r"m\.safetensors has a head that is not the free head of 4 bits"
    ):
        Scorer.load(tmp_path / "m.safetensors")


def test_a_device_that_is_not_there_is_refused_by_naming_those_that_are() -> None:
    with pytest.raises(DeviceError, match=r"The device cuda:77 is not there.*There is .*cpu"):
        choose_device("cuda:77")


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:one", "cuda:-1", "cpu:0", "mps:0", "", "CUDA"])
def test_what_is_no_device_is_refused(name: str) -> None:
    with pytest.raises(OptionError, match="is no device"):
        choose_device(name)


def test_auto_takes_the_first_device_found() -> None:
    assert str(choose_device("auto")) == find_devices()[0].name
    assert str(choose_device("cpu")) == "cpu"


def test_every_device_is_described_with_its_memory() -> None:
    lines = describe_devices()
    assert len(lines) == len(find_devices())
    assert lines[-1].startswith("cpu ")
    assert all(line.endswith(" GiB") for line in lines)


def test_a_precision_is_one_of_two_or_auto() -> None:
    cpu = torch.device("cpu")
    assert choose_precision("fp32", cpu) == "fp32"
    assert choose_precision("bf16", cpu) == "bf16"
    assert choose_precision("auto", cpu) in ("fp32", "bf16")
    with pytest.raises(OptionError, match="'fp16' is no precision"):
        choose_precision("fp16", cpu)


def test_the_number_of_threads_can_be_set_as_for_any_openmp_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert default_threads() == 7
    monkeypatch.setenv("OMP_NUM_THREADS", "4,2")
    assert default_threads() >= 1
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert default_threads() >= 1
