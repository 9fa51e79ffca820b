"""QuPath projects made with QuPath's own classes, and a look at every field of what is in them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bridge.qupath.jvm import QuPath, start_qupath

OWN = ("HER2-HE", "_HER2-HE")


@dataclass(frozen=True)
class Painter:
    """Draws on one image, in QuPath's px."""

    qupath: QuPath
    entry: Any

    @property
    def hierarchy(self) -> Any:
        return self.entry._image_data.getHierarchy()

    def rectangle(self, x: float, y: float, w: float, h: float) -> Any:
        return self._rois().createRectangleROI(x, y, w, h, self._plane())

    def ellipse(self, x: float, y: float, w: float, h: float) -> Any:
        return self._rois().createEllipseROI(x, y, w, h, self._plane())

    def line(self, x: float, y: float, x2: float, y2: float) -> Any:
        return self._rois().createLineROI(x, y, x2, y2, self._plane())

    def point(self, x: float, y: float) -> Any:
        return self._rois().createPointsROI(x, y, self._plane())

    def shape(self, wkt: str) -> Any:
        geometry = self.qupath.java("org.locationtech.jts.io.WKTReader")().read(wkt)
        return self.qupath.java("qupath.lib.roi.GeometryTools").geometryToROI(geometry, self._plane())

    def path_class(self, name: str) -> Any:
        if not name:
            return None
        factory = self.qupath.java("qupath.lib.objects.classes.PathClass")
        return factory.fromString(name)

    def annotate(
        self,
        roi: Any,
        class_name: str = "",
        *,
        name: str | None = None,
        locked: bool = False,
        parent: Any = None,
        measurements: dict[str, float] | None = None,
    ) -> Any:
        item = self._objects().createAnnotationObject(roi, self.path_class(class_name))
        return self._added(item, name, locked, parent, measurements)

    def detect(
        self,
        roi: Any,
        class_name: str = "",
        *,
        parent: Any = None,
        measurements: dict[str, float] | None = None,
    ) -> Any:
        item = self._objects().createDetectionObject(roi, self.path_class(class_name))
        return self._added(item, None, False, parent, measurements)

    def tile(self, roi: Any, *, measurements: dict[str, float] | None = None) -> Any:
        return self._added(self._objects().createTileObject(roi), None, False, None, measurements)

    def cores(self, x: float, y: float, diameter: float, count: int) -> list[Any]:
        """A column of tissue microarray cores, as a grid."""
        make = self._objects().createTMACoreObject
        made = [make(x, y + n * diameter, diameter, diameter, n == 1) for n in range(count)]
        grid = self.qupath.java("qupath.lib.objects.hierarchy.DefaultTMAGrid")
        self.hierarchy.setTMAGrid(grid.create(self.qupath.java("java.util.ArrayList")(made), 1))
        return made

    def cell(self, roi: Any, nucleus: Any, *, parent: Any = None) -> Any:
        item = self._objects().createCellObject(roi, nucleus, self.path_class("Positive"), None)
        return self._added(item, None, False, parent, {"Nucleus: Area": 12.5})

    def _added(
        self, item: Any, name: str | None, locked: bool, parent: Any, measurements: dict[str, float] | None
    ) -> Any:
        if name is not None:
            item.setName(name)
        item.setLocked(locked)
        for key, value in (measurements or {}).items():
            item.getMeasurementList().put(key, value)
        self.hierarchy.addObjectBelowParent(parent, item, True)
        return item

    def _rois(self) -> Any:
        return self.qupath.java("qupath.lib.roi.ROIs")

    def _objects(self) -> Any:
        return self.qupath.java("qupath.lib.objects.PathObjects")

    def _plane(self) -> Any:
        return self.qupath.java("qupath.lib.regions.ImagePlane").getDefaultPlane()


class MadeProject:
    """A project being made; saved by :meth:`save`."""

    def __init__(self, folder: Path) -> None:
        self.qupath = start_qupath()
        assert self.qupath.openslide
        self.path = folder / "project.qpproj"
        self._project = self.qupath.new_project(folder)

    def add(self, slide: Path, *, saved: bool = True) -> Painter:
        """Add a slide; with `saved` false, its data are never written."""
        entry = self._project.add_image(slide, image_type=self.qupath.brightfield_he if saved else None)
        painter = Painter(self.qupath, entry)
        if not saved:
            entry.entry_path.joinpath("data.qpdata").unlink(missing_ok=True)
        return painter

    def add_built(self, builder: Any, name: str) -> Painter:
        """Add an image by a server builder of QuPath's."""
        entry = self._project.java_object.addImage(builder)
        entry.setImageName(name)
        self._project._image_entries_proxy.refresh()
        painter = Painter(self.qupath, list(self._project.images)[-1])
        painter.entry._image_data.setImageType(self.qupath.brightfield_he.java_enum)
        return painter

    def list_classes(self, *names: str) -> None:
        """Give the project a list of classes of its own."""
        factory = self.qupath.java("qupath.lib.objects.classes.PathClass")
        classes = self.qupath.java("java.util.ArrayList")()
        for name in names:
            classes.add(factory.fromString(name))
        self._project.java_object.setPathClasses(classes)

    def save(self) -> Path:
        for entry in self._project.images:
            if entry._image_data.isChanged():
                entry.java_object.saveImageData(entry._image_data)
        self._project.java_object.syncChanges()
        return self.path


def draw_every_kind(painter: Painter) -> dict[str, str]:
    """Draw on 900 × 900 px what a pathologist may draw; return ids by a short name."""
    made: dict[str, Any] = {}
    made["rectangle"] = painter.annotate(
        painter.rectangle(20, 30, 300, 280), "Tumor", name="T1", locked=True, measurements={"mine": 1.5}
    )
    made["rectangle"].setDescription("seen twice,\nby two people")
    made["rectangle"].getMetadata().put("reader", "A")
    made["ellipse"] = painter.annotate(painter.ellipse(350.25, 20.5, 220.75, 160), "Tumor: Invasive")
    made["ellipse"].setColor(10, 20, 30)
    made["hole"] = painter.annotate(
        painter.shape(
            "POLYGON ((40 350, 300 350, 300 600, 40 600, 40 350), "
            "(100 400, 200 400, 200 500, 100 500, 100 400))"
        ),
        "Tumor",
    )
    made["parts"] = painter.annotate(
        painter.shape(
            "MULTIPOLYGON (((350 300, 450 300, 450 420, 350 420, 350 300)), "
            "((500 300, 620 310, 560 430, 500 300)))"
        ),
        "Tumor",
        name="two parts",
    )
    made["overlapping"] = painter.annotate(painter.rectangle(200, 200, 200, 120), "Tumor")
    made["probable"] = painter.annotate(painter.rectangle(650, 40, 120, 120))
    made["probable"].setPathClass(painter.path_class("Tumor"), 0.75)
    made["unclassified"] = painter.annotate(
        painter.rectangle(350, 480, 200, 200), measurements={"NaN": float("nan")}
    )
    made["unclassified"].setColor(1, 2, 3)
    made["ignored"] = painter.annotate(painter.rectangle(600, 500, 100, 100), "Ignore*")
    made["line"] = painter.annotate(painter.line(10, 10, 300, 10), "Tumor", name="a line")
    made["point"] = painter.annotate(painter.point(700, 700), "Tumor")
    made["child"] = painter.annotate(painter.rectangle(50, 60, 60, 60), "Stroma", parent=made["rectangle"])
    made["detection"] = painter.detect(
        painter.ellipse(60, 70, 10, 10),
        "Positive",
        parent=made["child"],
        measurements={"m": 2.0, "HER2": 3.0},
    )
    made["cell"] = painter.cell(
        painter.ellipse(150, 150, 20, 20), painter.ellipse(155, 155, 8, 8), parent=made["rectangle"]
    )
    made["tile"] = painter.tile(painter.rectangle(700, 600, 50, 50), measurements={"mean": 0.5})
    made["core"] = painter.cores(820, 600, 150, 2)[0]
    made["in core"] = painter.annotate(painter.rectangle(830, 610, 100, 100), "Stroma", parent=made["core"])
    return {name: str(item.getID()) for name, item in made.items()}


def knows_flips(qupath: QuPath) -> bool:
    """Whether it is QuPath 0.7 or newer, which also knows ICC profiles."""
    return tuple(int(part) for part in qupath.version.split("-")[0].split(".")[:2]) >= (0, 7)


def shown_images(qupath: QuPath, bounded: Path, coloured: Path) -> dict[str, tuple[Path, Any]]:
    """Two slides as QuPath may show them: as they are, turned, mirrored, cropped, by an ICC profile.

    Parameters
    ----------
    bounded
        A slide with bounds.
    coloured
        One with an ICC profile.
    """
    java = qupath.java
    servers = java("qupath.lib.images.servers.ImageServers")

    def shown(path: Path, *arguments: str) -> Any:
        server = servers.buildServer(java("java.io.File")(str(path)).toURI(), *arguments)
        return java("qupath.lib.images.servers.TransformedServerBuilder")(server)

    # Whole pixels of every level: of others, QuPath's own levels do not lie on the file's.
    part = java("qupath.lib.regions.ImageRegion").createInstance(96, 64, 704, 640, 0, 0)
    turns = java("qupath.lib.images.servers.RotatedImageServer.Rotation")
    made = {
        "plain": (coloured, shown(coloured)),
        "bounded": (bounded, shown(bounded)),
        "turned": (bounded, shown(bounded).rotate(turns.ROTATE_90)),
        "part": (bounded, shown(bounded).crop(part)),
    }
    if knows_flips(qupath):
        flips = java("qupath.lib.images.servers.FlippedImageServer.Flip")
        made["mirrored"] = (bounded, shown(bounded).flip(flips.HORIZONTAL))
        turned = shown(coloured).flip(flips.VERTICAL).rotate(turns.ROTATE_270)
        made["mirrored and turned"] = (coloured, turned)
        made["icc"] = (coloured, shown(coloured, "--icc-profile"))
    return {name: (path, server.build()) for name, (path, server) in made.items()}


def describe(project: Path) -> dict[str, list[dict[str, Any]]]:
    """Return every field of every object of every image, as QuPath itself reads them from the disk."""
    qupath = start_qupath()
    return {str(image.image_name): describe_image(qupath, image.java_object) for image in images(project)}


def described(project: Path) -> dict[str, list[dict[str, Any]]]:
    """As :func:`describe`, but without what saving in QuPath changes: the workflow and the project's path."""
    found = describe(project)
    for rows in found.values():
        for row in rows:
            row.pop("properties", None)
            row.pop("workflow", None)
    return found


def images(project: Path) -> list[Any]:
    """Paquo's entries of a project, freshly read."""
    return list(start_qupath().open_project(project).images)


def describe_image(qupath: QuPath, entry: Any) -> list[dict[str, Any]]:
    data = entry.readImageData()
    stains = data.getColorDeconvolutionStains()
    steps = [
        str(step.getScript()) for step in data.getHistoryWorkflow().getSteps() if hasattr(step, "getScript")
    ]
    grid = data.getHierarchy().getTMAGrid()
    about = {
        "type": str(data.getImageType()),
        "stains": None if stains is None else str(stains),
        "workflow": steps,
        "properties": {str(k): str(v) for k, v in data.getProperties().items() if not str(k).startswith(OWN)},
        "metadata": {str(k): str(v) for k, v in entry.getMetadataMap().items()},
        "description": str(entry.getDescription()),
        "cores": [str(core.getID()) for core in grid.getTMACoreList()] if grid is not None else None,
    }
    rows = [about]
    # The root of an image that was never saved is another one each time.
    waiting = [(child, "root") for child in data.getHierarchy().getRootObject().getChildObjects()]
    while waiting:
        item, parent = waiting.pop()
        rows.append(_fields(qupath, item, parent))
        waiting += [(child, str(item.getID())) for child in item.getChildObjects()]
    return sorted(rows, key=lambda row: row.get("id", ""))


def _fields(qupath: QuPath, item: Any, parent: str) -> dict[str, Any]:
    path_class, roi = item.getPathClass(), item.getROI()
    wkb = qupath.java("org.locationtech.jts.io.WKBWriter")
    values = item.getMeasurementList()
    return {
        "id": str(item.getID()),
        "kind": str(item.getClass().getSimpleName()),
        "parent": parent,
        "class": None if path_class is None else str(path_class),
        "class colour": None if path_class is None else str(path_class.getColor()),
        "probability": repr(float(item.getClassProbability())),
        "name": None if item.getName() is None else str(item.getName()),
        "colour": None if item.getColor() is None else str(item.getColor()),
        "locked": bool(item.isLocked()),
        "roi": None if roi is None else str(roi.getRoiName()),
        "wkb": None if roi is None else bytes(wkb().write(roi.getGeometry())).hex(),
        "measurements": {str(n): repr(float(values.get(n))) for n in values.getMeasurementNames()},
        "metadata": {str(k): str(v) for k, v in item.getMetadata().items()},
    }


def ours(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of :func:`describe`'s rows, the objects that score made."""
    return [
        row
        for row in rows
        if "id" in row and (row["class"] == "HER2-HE patch" or "_HER2-HE" in row["metadata"])
    ]


def files(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by its path."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
