"""Writing 10,000 tiles back into a QuPath image, beside QuPath's own save of the same image.

Prints the seconds that writing takes besides saving (target: under 5), and the ratio of the whole write-back
to QuPath's own save in the same run. Needs a QuPath that paquo finds.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers.example_results import made_prediction, made_provenance
from helpers.qupath_projects import MadeProject, images

from bridge.projects.qupath_project import QuPathProject
from bridge.results.schema import CompositeResult, Outcome, PlacedPatch, RegionResult, SlideResult
from bridge.scoring.options import WriteOptions
from herohe_model.synthetic.slides import write_tiff


def big_result(entry: str, annotation: str, tiles: int) -> SlideResult:
    """A result with this many distinct patches under one annotation."""
    side = int(np.ceil(np.sqrt(tiles)))
    patches = tuple(
        PlacedPatch(
            8 * (n % side), 8 * (n // side), 8, n // 25, n % 25, 0.25, (-0.123456, 0.234567, 0.345678)
        )
        for n in range(tiles)
    )
    union = RegionResult(
        region="slide",
        name="",
        class_name="Tumor",
        annotations=(annotation,),
        outcome=Outcome.SCORED,
        patches_foreground=tiles,
        patches_sampled=tiles,
        prediction=made_prediction(),
        composites=tuple(
            CompositeResult(number, (-1.0, 1.0, 2.0), 0.7, "2+") for number in range(-(-tiles // 25))
        ),
        patches=patches,
    )
    return SlideResult(
        entry=entry,
        slide="a.tif",
        path="a.tif",
        outcome=Outcome.SCORED,
        union=union,
        provenance=made_provenance(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiles", type=int, default=10_000)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        write_tiff(home / "a.tif", np.full((1024, 1024, 3), 150, dtype=np.uint8), mpp=0.5)
        made = MadeProject(home / "project")
        painter = made.add(home / "a.tif")
        painter.annotate(painter.rectangle(0, 0, 1024, 1024), "Tumor")
        path = made.save()
        project = QuPathProject(path)
        entry = project.entries()[0]
        annotation = project.read(entry).annotations[0].id
        result = big_result(entry.id, annotation, options.tiles)

        writes, saves = [], []
        for number in range(options.repeat):
            provenance = msgspec.structs.replace(made_provenance(), run=f"{number:016x}")
            started = time.perf_counter()
            project.write(entry, msgspec.structs.replace(result, provenance=provenance), WriteOptions())
            project.flush()
            writes.append(time.perf_counter() - started)
            image = images(path)[0].java_object
            data = image.readImageData()
            assert data.getHierarchy().getTileObjects().size() == options.tiles
            started = time.perf_counter()
            image.saveImageData(data)
            saves.append(time.perf_counter() - started)
            project.read(entry)
        write, save = min(writes), min(saves)
        print(f"{options.tiles} tiles, best of {options.repeat}:")
        print(f"  write-back {write:.2f} s, QuPath's own save {save:.2f} s")
        print(f"  beside saving: {write - save:.2f} s (target: under 5)")
        print(f"  ratio of write-back to QuPath's own save: {write / save:.1f}")


if __name__ == "__main__":
    main()
