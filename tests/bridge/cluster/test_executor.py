"""Batches on a dask cluster of real processes: the same bytes as here, whatever dies."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers.servers import wait_until
from helpers.small_bags import bag_model, small_weights
from helpers.small_slides import MPP, drawn, immunostained_picture, small_model, small_slide
from msgspec.structs import replace

from bridge.annotations.geojson_writing import write_annotations
from bridge.annotations.regions import build_regions
from bridge.batch.options import BatchOptions
from bridge.batch.run import BatchSummary, run_batch, run_batch_on
from bridge.cli import cli
from bridge.projects.open import open_collection
from bridge.results.files import read_json
from bridge.results.schema import Outcome, SlideResult
from bridge.scoring.options import ScoreOptions
from bridge.scoring.progress import Progress
from herohe_model.engines.bag_scorer import load_scorer
from herohe_model.errors import CancelledError, OptionError
from herohe_model.files import sha256_of
from herohe_model.model.compute import Compute
from herohe_model.slides.source import Box
from herohe_model.synthetic.slides import write_tiff

pytest.importorskip("distributed", reason="needs dask: pip install 'herohe-bridge[cluster]'")

from distributed import Client
from helpers.dask_cluster import Dask, dask_cluster

from bridge.cluster.connect import ClusterAddress, ClusterError
from bridge.cluster.executor import DaskExecutor
from bridge.cluster.messages import Environment, unlike
from bridge.console.log import log_shown
from bridge.scoring.job import SlideJob, SlidesElsewhere, decode_job, encode_job
from bridge.versions import is_older

OPTIONS = BatchOptions(region_classes=("Tumor",), score=ScoreOptions(composites=2))
FILES = ("results.csv", "results.json")


@dataclass
class Ear:
    """A listener that remembers, and does something when a batch begins to wait."""

    do: Callable[[], None] | None = None
    results: dict[str, SlideResult] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)

    def started(self, total: int) -> None: ...

    def running(self, slides: Sequence[tuple[str, Progress]]) -> None:
        self.seen.update(name for name, _ in slides)
        if self.do is not None:
            self.do()

    def finished(self, result: SlideResult, *, reused: bool) -> None:
        assert result.slide not in self.results, "a slide was finished twice"
        self.results[result.slide] = result

    def outcomes(self) -> dict[str, Outcome]:
        return {name: result.outcome for name, result in self.results.items()}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("model") / "m.safetensors")


@pytest.fixture(scope="module")
def dask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dask]:
    with dask_cluster(tmp_path_factory.mktemp("dask"), 2) as dask:
        yield dask


@pytest.fixture(autouse=True)
def closed_gate(request: pytest.FixtureRequest) -> None:
    if "dask" in request.fixturenames:
        folder = request.getfixturevalue("dask").folder
        for name in ("gate", *(path.name for path in folder.glob("begun-*"))):
            (folder / name).unlink(missing_ok=True)


def a_folder(home: Path, names: Sequence[str]) -> Path:
    """Slides with one tumour annotation each."""
    home.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        slide = small_slide(home / f"{name}.tif", seed=number)
        write_annotations(slide, [drawn(64, 64, 256, 320)])
    return home


def executor(dask: Dask, model: Path, **more: object) -> DaskExecutor:
    address = ClusterAddress(dask.address)
    return DaskExecutor(address, model, Compute("cpu", "fp32"), timeout_s=10, **more)  # type: ignore[arg-type]


def run_there(
    where: DaskExecutor, folder: Path, ear: Ear, cancelled: Callable[[], bool] = lambda: False
) -> BatchSummary:
    out = folder / "out"
    return run_batch_on(
        where, open_collection(folder), OPTIONS, output=out, listener=ear, cancelled=cancelled
    )


def run_here(model: Path, folder: Path) -> dict[str, bytes]:
    """Score a folder in this process, and return its result files."""
    with load_scorer(model, Compute("cpu", "fp32")) as scorer:
        run_batch(open_collection(folder), scorer, OPTIONS, output=folder / "out", listener=Ear())
    return files(folder)


def files(folder: Path) -> dict[str, bytes]:
    return {name: (folder / "out" / name).read_bytes() for name in FILES}


def damage(slide: Path) -> None:
    """Break pixels so that the slide still opens."""
    data = bytearray(slide.read_bytes())
    start = len(data) // 4
    data[start : start + len(data) // 4] = b"\0" * (len(data) // 4)
    slide.write_bytes(data)


def test_a_cluster_gives_the_bytes_of_one_machine_for_a_bag_model(
    dask: Dask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = bag_model(tmp_path / "bag.safetensors", small_weights(tmp_path))
    folder = a_folder(tmp_path / "p", ["s1", "s2"])
    with executor(dask, model) as where:
        ear = Ear()
        run_there(where, folder, ear)
    assert set(ear.outcomes().values()) == {Outcome.SCORED}
    # So that nothing is known of what was embedded there.
    monkeypatch.setenv("HEROHE_CACHE_DIR", str(tmp_path / "cache"))
    small_weights(tmp_path)
    assert run_here(model, a_folder(tmp_path / "here", ["s1", "s2"])) == files(folder)


def test_a_cluster_gives_the_bytes_of_one_machine(dask: Dask, model: Path, tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "p", [f"s{number}" for number in range(7)])
    damage(folder / "s3.tif")
    small_slide(folder / "undrawn.tif")
    (folder / "text.svs").write_text("no slide")
    glass = small_slide(folder / "glass.tif")
    write_annotations(glass, [drawn(0, 0, 512, 32)])
    write_tiff(folder / "brown.tif", immunostained_picture(512), mpp=MPP, tile=128)
    write_annotations(folder / "brown.tif", [drawn(64, 64, 256, 320)])
    with executor(dask, model) as where:
        assert where.capacity == 4
        ear = Ear()
        run_there(where, folder, ear)
    assert set(ear.outcomes().values()) == set(Outcome) - {Outcome.FAILED, Outcome.CANCELLED}
    assert ear.outcomes()["s3.tif"] is Outcome.UNREADABLE
    assert ear.seen
    there = files(folder)
    shutil.rmtree(folder / "out")
    assert run_here(model, folder) == there


def test_what_is_known_here_is_known_there(dask: Dask, model: Path, tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "p", ["s0", "s1"])
    here = run_here(model, folder)
    with executor(dask, model) as where:
        summary = run_there(where, folder, Ear())
    assert summary.reused == 2 and summary.written == 0
    assert files(folder) == here


def test_a_killed_workers_slide_is_scored_elsewhere(dask: Dask, model: Path, tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "p", [f"gate{number}" for number in range(6)])
    victim = dask.add_worker()
    assert victim.address

    def kill() -> None:
        if dask.has_begun(victim):
            victim.kill()
            dask.open_gate()

    ear = Ear(kill)
    with executor(dask, model) as where:
        run_there(where, folder, ear)
    assert set(ear.outcomes().values()) == {Outcome.SCORED} and victim.process.returncode
    there = files(folder)
    shutil.rmtree(folder / "out")
    assert run_here(model, folder) == there


def test_a_slide_that_kills_its_workers_fails_alone(model: Path, tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "p", ["deadly", "s0", "s1", "s2", "s3"])
    ear = Ear()
    with dask_cluster(tmp_path / "dask", 3, allowed_failures=0) as dask, executor(dask, model) as where:
        summary = run_there(where, folder, ear)
        assert sorted(worker.process.poll() or 0 for worker in dask.workers) == [0, 1, 1]
    assert summary.outcomes == {Outcome.SCORED: 4, Outcome.FAILED: 1}
    failed = ear.results["deadly.tif"]
    assert failed.error_code == "worker_died" and "workers' logs" in failed.message


def settled(dask: Dask) -> None:
    """Wait until the scheduler knows of exactly those workers that live."""
    alive = {worker.address for worker in dask.workers if worker.process.poll() is None}
    with Client(dask.address, set_as_default=False) as client:
        wait_until(lambda: client.nthreads().keys() == alive)


def test_a_worker_that_fails_at_everything_fails_no_slide(dask: Dask, model: Path, tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "p", [f"gate{number}" for number in range(6)])
    broken = dask.add_worker(broken=True)
    assert broken.address
    dask.open_gate()
    ear = Ear()
    with executor(dask, model) as where:
        run_there(where, folder, ear)
    assert dask.has_begun(broken)
    assert set(ear.outcomes().values()) == {Outcome.SCORED}
    broken.kill()
    settled(dask)


def test_cancelling_ends_soon_and_the_next_run_goes_on(dask: Dask, model: Path, tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "p", ["a0", "gate1", "gate2", "gate3"])
    ear = Ear()
    with executor(dask, model) as where:
        summary = run_there(where, folder, ear, cancelled=lambda: "a0.tif" in ear.results)
    assert ear.outcomes()["a0.tif"] is Outcome.SCORED
    assert summary.outcomes == {Outcome.SCORED: 1, Outcome.CANCELLED: 3}
    dask.open_gate()
    with executor(dask, model) as where:
        summary = run_there(where, folder, Ear())
    assert summary.reused == 1 and summary.exit_code == 0
    there = files(folder)
    shutil.rmtree(folder / "out")
    assert run_here(model, folder) == there


def test_a_wait_for_workers_can_be_cancelled(tmp_path: Path, model: Path) -> None:
    with dask_cluster(tmp_path, 0) as empty, pytest.raises(CancelledError):
        executor(empty, model, cancelled=lambda: True)


def test_slides_may_lie_elsewhere_on_the_workers(dask: Dask, model: Path, tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "p", ["s0", "s1"])
    here = run_here(model, folder)
    shutil.rmtree(folder / "out")
    shutil.copytree(folder, tmp_path / "there" / "q")
    with executor(
        dask, model, slides=SlidesElsewhere(tmp_path / "p", str(tmp_path / "there" / "q"))
    ) as where:
        run_there(where, folder, Ear())
    assert files(folder) == here


def test_slides_that_workers_do_not_find_say_so(dask: Dask, model: Path, tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "p", ["s0"])
    ear = Ear()
    with executor(dask, model, slides=SlidesElsewhere(tmp_path, str(tmp_path / "nowhere"))) as where:
        run_there(where, folder, ear)
    result = ear.results["s0.tif"]
    assert result.outcome is Outcome.UNREADABLE and "--dask-slides" in result.message
    assert all(worker in result.message for worker in where._registry.usable)


def test_the_model_is_sent_to_workers_that_cannot_read_it(dask: Dask, model: Path, tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "p", [f"gate{number}" for number in range(6)])
    with executor(dask, model) as where:
        later = dask.add_worker(hidden=str(model.parent))
        assert later.address
        wait_until(lambda: where.finished(0.0) == [] and where.capacity == 6)
        ear = Ear(lambda: dask.open_gate() if dask.has_begun(later) else None)
        run_there(where, folder, ear)
    assert set(ear.outcomes().values()) == {Outcome.SCORED}
    another = small_model(model.parent / "another.safetensors", seed=1)
    with executor(dask, another):
        place = dask.folder / f"worker-{later.process.pid}"
        sent = {sha256_of(path) for path in place.rglob("herohe-*.safetensors")}
        assert sent == {sha256_of(model), sha256_of(another)}
    later.kill()
    settled(dask)


def test_a_worker_of_another_version_is_left_out_or_refused(dask: Dask, model: Path, tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "p", [f"gate{number}" for number in range(6)])
    notices: list[str] = []
    with log_shown(notices.append), executor(dask, model) as where:
        odd = dask.add_worker(version="0.0.1")
        assert odd.address
        wait_until(lambda: where.finished(0.0) == [] and where.capacity == 6)

        def go_on() -> None:
            if any(odd.address in notice for notice in notices):
                dask.open_gate()

        ear = Ear(go_on)
        run_there(where, folder, ear)
    assert set(ear.outcomes().values()) == {Outcome.SCORED}
    assert sum("left out" in notice for notice in notices) == 1
    with pytest.raises(ClusterError, match=r"has herohe-bridge 0\.0\.1.*Update the worker on"):
        executor(dask, model)
    odd.kill()
    settled(dask)


def test_what_differs_says_what_to_update() -> None:
    facts = Environment("1.0", "cpu", "fp32", "torch 2.10", 4, {"torch": "2.10"})
    assert facts.difference(facts) == ("", "", "")
    for name, other in (
        ("herohe-bridge", replace(facts, version="1.1")),
        ("device", replace(facts, device="cuda:0 NVIDIA H100")),
        ("engine", replace(facts, engine="openvino 2026.4")),
        ("threads", replace(facts, threads=8)),
        ("torch", replace(facts, packages={"torch": "2.11"})),
        ("torch", replace(facts, packages={})),
    ):
        assert facts.difference(other)[0] == name
    assert is_older("2.9.1", "2.10") and not is_older("2.10", "2.9.1")
    assert not is_older("2.10.0+cpu", "2.10.0") and not is_older("2.10.0", "2.10.0+cu126")
    assert unlike("torch", "2.9", "2.10")[1].startswith("Update torch")
    assert "--device" in unlike("device", "cpu", "mps")[1]


def test_a_job_travels_without_losing_a_bit() -> None:
    shapes = [drawn(64, 64, 256, 320), drawn(1, 2, 3, 4, id="b")]
    shapes[0] = dataclasses.replace(shapes[0], geometry=shapes[0].geometry.buffer(1 / 3))
    regions = build_regions(shapes, region_classes=("Tumor",), exclude_classes=(), slide_box=Box(0, 0, 9, 9))
    job = SlideJob(
        entry="e",
        slide="s",
        path="p/s",
        file="/p/s",
        mpp=1 / 3,
        warnings=("w",),
        regions=regions,
        options=OPTIONS.score,
    )
    back = decode_job(encode_job(job))
    assert back == job
    assert back.regions.union is not None and regions.union is not None
    assert back.regions.union.geometry.equals_exact(regions.union.geometry, tolerance=0)


def test_slides_elsewhere_are_named_as_the_workers_name_them(tmp_path: Path) -> None:
    elsewhere = SlidesElsewhere(tmp_path / "a", "/mnt/slides/")
    assert elsewhere.map(str(tmp_path / "a" / "b" / "c.svs")) == "/mnt/slides/b/c.svs"
    assert elsewhere.map(str(tmp_path / "other.svs")) == str(tmp_path / "other.svs")


def test_a_lost_scheduler_fails_what_is_left_and_the_next_run_goes_on(model: Path, tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "p", ["a0", "gate1", "gate2", "gate3", "gate4"])
    with dask_cluster(tmp_path / "dask", 1) as dask:

        def lose() -> None:
            if "a0.tif" in ear.results:
                dask.scheduler.kill()
                ear.do = None

        ear = Ear(lose)
        address = ClusterAddress(dask.address)
        with DaskExecutor(address, model, Compute("cpu", "fp32"), timeout_s=1) as where:
            summary = run_there(where, folder, ear)
        assert summary.outcomes == {Outcome.SCORED: 1, Outcome.FAILED: 4}
        assert all(
            "same command" in result.message for name, result in ear.results.items() if name != "a0.tif"
        )
    assert run_here(model, folder) == files(folder)
    assert [result.outcome for result in read_json(folder / "out" / "results.json")] == [Outcome.SCORED] * 5


def test_nobody_there_is_an_error_that_names_the_address(model: Path) -> None:
    with pytest.raises(ClusterError, match=r"127\.0\.0\.1:9"):
        DaskExecutor(ClusterAddress("tcp://127.0.0.1:9"), model, timeout_s=0.5)


def test_without_dask_the_extra_is_named(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(OptionError, match=r"herohe-bridge\[cluster\]"):
        DaskExecutor(ClusterAddress("tcp://127.0.0.1:9"), model)


def test_a_scheduler_file_names_the_scheduler(tmp_path: Path) -> None:
    file = tmp_path / "scheduler.json"
    file.write_text('{"address": "tcp://10.0.0.1:8786"}')
    assert ClusterAddress(str(file)).endpoint() == "tcp://10.0.0.1:8786"
    for wrong in (tmp_path / "absent.json", tmp_path):
        with pytest.raises(OptionError, match="scheduler file"):
            ClusterAddress(str(wrong)).endpoint()


@pytest.mark.parametrize(
    ("address", "exposed"),
    [
        ("tcp://127.0.0.1:8786", False),
        ("tcp://localhost:8786", False),
        ("tcp://[::1]:8786", False),
        ("tcp://10.0.0.1:8786", True),
        ("tcp://head.cluster:8786", True),
        ("tls://head.cluster:8786", False),
    ],
)
def test_what_leaves_the_machine_unencrypted_is_known(address: str, exposed: bool) -> None:
    assert ClusterAddress(address).is_exposed() is exposed


def test_half_of_what_tls_needs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="--dask-tls-cert"):
        ClusterAddress("tls://h:1", ca=tmp_path / "ca.pem")
    with pytest.raises(OptionError, match="cannot be used"):
        DaskExecutor(
            ClusterAddress("tls://h:1", ca=tmp_path / "no.pem", certificate=tmp_path / "no.pem"),
            small_model(tmp_path / "m.safetensors"),
        )


def test_a_cluster_with_tls_takes_nobody_without(model: Path, tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl to make certificates with")
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    made = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=herohe"]
    subprocess.run([*made, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    tls = {"tls_ca_file": str(certificate)}
    tls |= {"tls_scheduler_cert": str(certificate), "tls_scheduler_key": str(key)}
    with dask_cluster(tmp_path / "dask", 0, tls=tls) as dask:
        assert dask.address.startswith("tls://")
        with pytest.raises(ClusterError, match="--dask-tls-ca"):
            DaskExecutor(ClusterAddress(dask.address), model, timeout_s=10)
        # It has no worker: who gets so far as to wait for one was let in.
        address = ClusterAddress(dask.address, certificate, certificate, key)
        with pytest.raises(CancelledError):
            DaskExecutor(address, model, timeout_s=10, cancelled=lambda: True)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--dask", "tcp://h:1", "--server", "tcp://h:2"], "without --server"),
        (["--dask", "tcp://h:1"], "--model"),
        (["--dask-slides", "/a=/b"], "go with --dask"),
        (["--dask", "tcp://h:1", "--dask-slides", "/a"], "HERE=THERE"),
    ],
)
def test_options_that_do_not_go_together_are_refused(tmp_path: Path, more: list[str], says: str) -> None:
    model = [] if more == ["--dask", "tcp://h:1"] else ["--model", "m.safetensors"]
    done = CliRunner().invoke(cli, ["score", str(tmp_path), *model, *more])
    assert done.exit_code == 2 and says in done.output
