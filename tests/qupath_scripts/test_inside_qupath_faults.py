"""What may go wrong while a script works in a real QuPath: it is said, and everything is as before."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from helpers.qupath_process import InsideQuPath, installed_qupath
from helpers.qupath_projects import MadeProject, describe, draw_every_kind, files, ours
from helpers.servers import PATIENCE_S, all_gone, wait_until
from helpers.small_slides import MPP, small_model, tissue_picture

from bridge.client.address import ServerAddress, ask
from bridge.install.jars import JARS
from bridge.install.scripts import Remote, ScriptSettings
from bridge.protocol.codec import new_id
from bridge.protocol.messages import Info, StatusRequest
from bridge.qupath.jvm import start_qupath
from bridge.transport.curve import KeyPair, write_pair
from bridge.transport.discovery import ServerRecord, process_start, running_servers
from herohe_model.synthetic.slides import write_tiff

pytestmark = pytest.mark.qupath

DRIVER = Path(__file__).with_name("faults.groovy")
IMAGE = "schöner Schnitt.tif"
LONG = ("composites=4000",)
ENOUGH = ("composites=400",)
TOP = ("top=5", "composite=none")


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InsideQuPath]:
    home = tmp_path_factory.mktemp("home")
    model = small_model(tmp_path_factory.mktemp("model") / "small.safetensors")
    with (
        pytest.MonkeyPatch.context() as patch,
        installed_qupath(start_qupath().directory, home, model) as inside,
    ):
        patch.setenv("HEROHE_RUNTIME_DIR", inside.environment["HEROHE_RUNTIME_DIR"])
        yield inside


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("faulty wörld")
    write_tiff(home / IMAGE, tissue_picture(928, seed=2), mpp=MPP)
    made = MadeProject(home / "project")
    draw_every_kind(made.add(home / IMAGE))
    return made.save()


@pytest.fixture
def project(world: Path, tmp_path: Path) -> Path:
    shutil.copytree(world.parent, tmp_path / "project")
    return tmp_path / "project" / world.name


@dataclass
class Step:
    """A script's run, what goes wrong in it, and what must be said."""

    words: tuple[str, ...]
    args: tuple[str, ...] = ()
    then: str = ""
    script: str = "herohe_score.groovy"
    settings: ScriptSettings | None = None
    record: ServerRecord | None = None
    fails: bool = True
    changes: bool = False
    select: str | None = None
    selected: int = 0
    scored: list[str] | None = None


def test_each_fault_is_said_in_a_sentence_and_leaves_the_image_as_it_was(
    inside: InsideQuPath, project: Path, tmp_path: Path
) -> None:
    before = files(project.parent)
    settings = settings_of(inside)
    with serving(inside, tmp_path) as (server, remote):
        nowhere = msgspec.structs.replace(settings, command=(str(tmp_path / "nowhere"),))
        unknown = msgspec.structs.replace(settings, command=())
        steps = [
            Step(("T1: ",), then="save", select="T1", fails=False, changes=True, selected=1, scored=["T1"]),
            Step(("T1: ",), script="workflow", select="", fails=False, scored=["T1"]),
            Step(("was removed",), script="herohe_clear.groovy", fails=False, changes=True),
            Step(("was deleted while it was scored", "Run the script again"), ENOUGH, "delete"),
            Step(("was changed while it was scored", "Run the script again"), ENOUGH, "reshape"),
            Step(("was cancelled", "nothing was written"), LONG, "interrupt"),
            Step(("Classes present: ", "Tumor (6)", "unclassified (1)"), ("regionClasses=Necrosis",)),
            Step(("/nowhere/m.safetensors", "install --model"), ("model=/nowhere/m.safetensors",)),
            Step(("'sede=1'", "regionClasses"), ("sede=1",)),
            Step(("Research use only",), settings=remote, fails=False, changes=True),
            Step(("5 patches with the",), TOP, script="herohe_explain.groovy", fails=False),
            Step(("was removed",), script="herohe_clear.groovy", fails=False, changes=True),
            Step(("Nothing on", "Score its annotations first"), script="herohe_explain.groovy"),
            Step(("ended while it worked", "Run the script again"), LONG, "kill"),
            Step(("nowhere", "herohe-bridge qupath install"), settings=nowhere),
            Step(("do not know where herohe-bridge is", "qupath install"), settings=unknown),
            Step(("protocol 99", "qupath install"), settings=unknown, record=of_another_protocol(server)),
        ]
        answers = run(inside, project, tmp_path, steps, pid=server.pid)
    for step, answer in zip(steps, answers, strict=True):
        said = (answer["failure"] or "") + "\n".join(answer["said"])
        assert (answer["failure"] is not None) == step.fails, (step, answer)
        assert all(word in said for word in step.words), (step, answer)
        assert answer["happened"] or step.then in ("", "save"), (step, answer)
        assert answer["unchanged"] != step.changes, (step, answer)
        assert answer["threads"] == [], (step, answer)
        assert answer["selected"] == step.selected, (step, answer)
        assert step.scored is None or answer["scored"] == step.scored, (step, answer)
        assert answer["interrupted"] == (step.then == "interrupt")
    unsaved, saved = answers[0]["metadata"]
    assert unsaved == [] and "HER2-HE grade" in saved, "the project says what its data hold, and not before"
    assert files(project.parent) == before
    assert list(running_servers()) == []


def test_quitting_qupath_in_mid_run_ends_the_work_and_leaves_the_project_as_it_was(
    inside: InsideQuPath, project: Path
) -> None:
    before = kept(project)
    with inside.begun("herohe_score.groovy", project, *LONG) as qupath:
        assert qupath.stdout is not None
        for line in qupath.stdout:
            if "Scoring composites" in line:
                break
        (server,) = running_servers()
        assert info(server).load.slides == 1
        qupath.terminate()
        qupath.communicate(timeout=60)
    wait_until(lambda: info(server).load.slides == 0)
    assert kept(project) == before


def kept(project: Path) -> dict[str, Any]:
    """What a project's folder holds.

    QuPath, ending, may still come to save its project after the script, or to begin with it: with another
    time, and names that it draws anew at each saving.
    """
    saved = (project.name, f"{project.name}.backup", f"{project.name}.tmp")
    held: dict[str, Any] = {name: sha for name, sha in files(project.parent).items() if name not in saved}
    held["project"] = json.loads(project.read_text(encoding="utf-8"))
    del held["project"]["modifyTimestamp"]
    for image in held["project"]["images"]:
        del image["randomizedName"]
    return held


def test_two_qupaths_share_one_server_that_either_starts(
    inside: InsideQuPath, project: Path, tmp_path: Path
) -> None:
    inside.bridge("stop")
    twin = tmp_path / "twin" / project.name
    shutil.copytree(project.parent, twin.parent)
    with (
        inside.begun("herohe_score.groovy", project) as one,
        inside.begun("herohe_score.groovy", twin) as other,
    ):
        said = [qupath.communicate(timeout=600)[0] for qupath in (one, other)]
    assert all("Research use only" in text for text in said), said
    assert len(list(running_servers())) == 1
    scored, wanted = describe(project), describe(twin)
    assert len(ours(scored[IMAGE])) > 20
    for rows in (scored[IMAGE], wanted[IMAGE]):
        rows[0].pop("properties")
    assert scored == wanted


def test_a_script_without_jeromq_names_the_command_that_brings_it(
    inside: InsideQuPath, project: Path, tmp_path: Path
) -> None:
    jar = inside.user_directory / "extensions" / JARS[0].name
    kept = jar.rename(tmp_path / jar.name)
    try:
        run = inside.script("herohe_score.groovy", project, image=IMAGE)
    finally:
        kept.rename(jar)
    assert run.returncode == 1
    assert "'herohe-bridge qupath install'" in run.stdout


def run(
    inside: InsideQuPath, project: Path, folder: Path, steps: list[Step], *, pid: int
) -> list[dict[str, Any]]:
    """Have one QuPath take all steps, on one image."""
    settings = inside.user_directory / "herohe-bridge" / "settings.json"
    runtime = Path(inside.environment["HEROHE_RUNTIME_DIR"])
    told = []
    for step in steps:
        put = {}
        if step.settings is not None:
            put[str(settings)] = msgspec.json.encode(step.settings).decode()
        if step.record is not None:
            put[str(runtime / "server-other.json")] = msgspec.json.encode(step.record).decode()
        told.append(
            {
                "script": step.script,
                "args": step.args,
                "then": step.then,
                "select": step.select,
                "files": put,
                "annotation": "T1" if step.then == "delete" else "two parts",
                "pid": pid,
            }
        )
    questions, answers = folder / "steps.json", folder / "answers.json"
    questions.write_text(json.dumps(told), encoding="utf-8")
    ran = inside.qupath(DRIVER, project, str(questions), str(answers), image=IMAGE, save=False)
    assert answers.is_file(), ran.stdout + ran.stderr
    found: list[dict[str, Any]] = json.loads(answers.read_text(encoding="utf-8"))
    return found


def settings_of(inside: InsideQuPath) -> ScriptSettings:
    path = inside.user_directory / "herohe-bridge" / "settings.json"
    return msgspec.json.decode(path.read_bytes(), type=ScriptSettings)


@contextmanager
def serving(inside: InsideQuPath, folder: Path) -> Iterator[tuple[ServerRecord, ScriptSettings]]:
    """A server that will be killed; it listens with CURVE too, and the settings of scripts that use that."""
    keys, own = KeyPair.new(), KeyPair.new()
    _, key = write_pair(folder / "server", "server", keys)
    _, client = write_pair(folder / "allowed", "client", own)
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "bridge", "serve", "--model", inside.model, "--device", "cpu"),
            *("--bind", "tcp://127.0.0.1:*", "--key", key, "--allow", folder / "allowed"),
        ],
        env=inside.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    # Waited for, so that it is gone when it was killed, and not a zombie.
    waiting = threading.Thread(target=process.wait)
    waiting.start()
    try:
        assert process.stdout is not None and process.stdout.readline(), "the server did not start"
        server = next(record for record in running_servers() if record.pid == process.pid)
        workers = [psutil.Process(worker.pid) for worker in info(server).workers]
        remote = Remote(server.remote_endpoints[0], keys.public, str(client))
        yield server, msgspec.structs.replace(settings_of(inside), remote=remote)
        waiting.join(PATIENCE_S)
        assert process.returncode not in (None, 0) and all_gone(workers)
    finally:
        process.kill()
        waiting.join()
        assert process.stdout is not None
        process.stdout.close()


def of_another_protocol(server: ServerRecord) -> ServerRecord:
    """The record of a server that seems to run, of another version."""
    started = process_start(os.getpid())
    return msgspec.structs.replace(
        server, instance="other", pid=os.getpid(), started=started, protocol=99, version="99.0"
    )


def info(server: ServerRecord) -> Info:
    found = ask(ServerAddress.of(server), StatusRequest(id=new_id()), timeout_s=PATIENCE_S)
    assert isinstance(found, Info)
    return found
