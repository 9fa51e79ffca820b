"""DICOM whole-slide images as OpenSlide reads them: a file a level, tiles of JPEG."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import UID

_WHOLE_SLIDE = UID("1.2.840.10008.5.1.4.1.1.77.1.6")
_JPEG = UID("1.2.840.10008.1.2.4.50")
_ROOT = "1.2.826.0.1.3680043.8.498"


def write_dicom(
    folder: Path, picture: NDArray[np.uint8], *, mpp: float, series: int = 1, container: str = ""
) -> list[Path]:
    """Write a slide of two levels, the smaller one first by name; return its files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for level, (name, step) in enumerate((("z", 1), ("a", 4))):
        path = folder / f"{name}{series}.dcm"
        _write(path, picture[::step, ::step], mpp * step, f"{_ROOT}.{series}", level, container)
        files.append(path)
    return files


def _write(
    path: Path, picture: NDArray[np.uint8], mpp: float, series: str, level: int, container: str
) -> None:
    height, width = picture.shape[:2]
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = _WHOLE_SLIDE, _JPEG
    meta.MediaStorageSOPInstanceUID = UID(f"{series}.1{level}")
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = _WHOLE_SLIDE, meta.MediaStorageSOPInstanceUID
    data.SeriesInstanceUID, data.StudyInstanceUID = series, f"{series}.1"
    data.FrameOfReferenceUID, data.Modality, data.InstanceNumber = f"{series}.2", "SM", level + 1
    if container:
        data.ContainerIdentifier = container
    data.ImageType = ["DERIVED", "PRIMARY", "VOLUME", "RESAMPLED"] if level else [
        *("ORIGINAL", "PRIMARY", "VOLUME", "NONE")
    ]  # fmt: skip
    tile = 128
    data.Rows = data.Columns = tile
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "YBR_FULL_422", 0
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelRepresentation = 7, 0
    data.TotalPixelMatrixColumns, data.TotalPixelMatrixRows = width, height
    data.TotalPixelMatrixFocalPlanes = data.NumberOfOpticalPaths = 1
    data.DimensionOrganizationType = "TILED_FULL"
    measures, groups = Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [mpp / 1000, mpp / 1000], 0.001
    groups.PixelMeasuresSequence = Sequence([measures])
    data.SharedFunctionalGroupsSequence = Sequence([groups])
    frames = []
    for y in range(0, height, tile):
        for x in range(0, width, tile):
            part = picture[y : y + tile, x : x + tile]
            frame = np.full((tile, tile, 3), 255, np.uint8)
            frame[: part.shape[0], : part.shape[1]] = part
            file = io.BytesIO()
            Image.fromarray(frame).save(file, "JPEG", quality=95)
            frames.append(file.getvalue())
    data.NumberOfFrames = len(frames)
    data.PixelData = encapsulate(frames)
    data["PixelData"].is_undefined_length = True
    data.save_as(path, enforce_file_format=True)
