"""Augmentation of composites: symmetries and scale of patches, stain and camera, focus, JPEG.

What is drawn is kept apart from its application: that happens on the device where the network runs, since
the threads that read have no time to spare (a logarithm of 20 million numbers takes longer than reading 25
patches). JPEG alone is a matter of the processor, and done by who reads.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional
from torchvision.transforms.v2 import functional as transforms

from herohe_model.training.options import AugmentOptions

_STAINS: Final = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]], dtype=np.float64)
"""Optical density of haematoxylin, eosin and DAB in R, G, B.

Ruifrok and Johnston 2001, *Quantification of histochemical staining by color deconvolution*.
"""

_LIGHT: Final = 255.0
_BLUR_RADII: Final = 3


@dataclass(frozen=True)
class Augmentation:
    """What happens to one composite.

    Attributes
    ----------
    turns
        Shape (cells,), int64, 0 to 7: the symmetry of each patch, see :func:`apply_turns`.
    colour
        Shape (cells, 3, 4), float32: an affine map of each patch's optical densities (r, g, b, 1) of base
        10; None to leave colours alone.
    blur_sigma_px
        0 for none.
    jpeg_quality
        None for no compression.
    scale
        Patches are magnified by it.
    """

    turns: NDArray[np.int64]
    colour: NDArray[np.float32] | None
    blur_sigma_px: float
    jpeg_quality: int | None = None
    scale: float = 1.0


def draw_augmentation(rng: np.random.Generator, cells: int, options: AugmentOptions) -> Augmentation:
    """Draw what happens to one composite of `cells` patches.

    Stains are varied as Tellez et al. 2018, *Whole-slide mitosis detection in H&E breast histology using
    PHH3 as a reference to train distilled stain-invariant convolutional networks*: each stain's amount a
    becomes ``scale * a + shift``.
    """
    # Everything is drawn whether or not it is used: switching one off leaves the others as they were.
    turns = rng.integers(8, size=cells)
    composite_scale = 1 + options.stain * rng.uniform(-1, 1, 3)
    shift = options.stain_shift * rng.uniform(-1, 1, 3)
    camera = 1 + options.colour * rng.uniform(-1, 1, 3)
    patch_scale = 1 + options.patch_stain * rng.uniform(-1, 1, (cells, 3))
    sharp, sigma = rng.random() >= options.blur, options.blur_sigma_px * rng.random()
    whole, quality = rng.random() >= options.jpeg, int(rng.integers(options.jpeg_quality, 96))
    scale = 1 + options.scale * float(rng.uniform(-1, 1))
    if not options.dihedral:
        turns = np.zeros_like(turns)
    colour = None
    if options.stain or options.stain_shift or options.colour or options.patch_stain:
        colour = colour_maps(composite_scale * patch_scale, shift, camera)
    return Augmentation(turns, colour, 0.0 if sharp else sigma, None if whole else quality, scale)


def colour_maps(
    stain_scale: NDArray[np.float64], stain_shift: NDArray[np.float64], camera: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Affine maps in optical density that scale and shift stains, then scale R, G and B.

    Parameters
    ----------
    stain_scale
        Shape (cells, 3).
    stain_shift, camera
        Shape (3,).

    Returns
    -------
    ndarray
        Shape (cells, 3, 4), float32, for :func:`apply_colour`.
    """
    unmix = np.linalg.inv(_STAINS)
    # Densities are row vectors: d' = (d @ unmix * scale + shift) @ stains * camera.
    linear = np.einsum("ij,cj,jk,k->cki", unmix, stain_scale, _STAINS, camera)
    constant = np.broadcast_to((stain_shift @ _STAINS) * camera, (len(stain_scale), 3))
    return np.concatenate([linear, constant[..., None]], axis=2).astype(np.float32)


def apply_turns(pixels: torch.Tensor, turns: NDArray[np.int64], grid: int) -> torch.Tensor:
    """Turn each patch of composites by its own symmetry of the square.

    Parameters
    ----------
    pixels
        Shape (n, side, side, 3), any type.
    turns
        Shape (n, grid * grid), 0 to 7: rotated by ``turn % 4`` quarters to the left, then mirrored left to
        right from 4 on.

    Returns
    -------
    Tensor
        As `pixels`; the very same where nothing is turned.
    """
    if not turns.any():
        return pixels
    tiles = _tiles(pixels, grid)
    turned = torch.empty_like(tiles)
    for turn in range(8):
        which = torch.from_numpy(np.flatnonzero(turns.ravel() == turn)).to(pixels.device)
        rotated = torch.rot90(tiles[which], turn % 4, dims=(1, 2))
        turned[which] = rotated.flip(2) if turn >= 4 else rotated
    return _composites(turned, len(pixels), grid)


def apply_colour(pixels: torch.Tensor, colour: torch.Tensor, grid: int) -> torch.Tensor:
    """Map the optical densities of composites, patch by patch.

    Parameters
    ----------
    pixels
        Shape (n, side, side, 3), R, G, B, uint8 or floating point, 0 to 255.
    colour
        Shape (n, grid * grid, 3, 4), float32, on the same device; see :func:`colour_maps`.

    Returns
    -------
    Tensor
        Shape (n, side, side, 3), float32, 0 to 255.
    """
    n = len(pixels)
    # Pixel values count photons; half a grey level keeps black finite.
    density = torch.log10(_LIGHT / pixels.float().clamp_(min=0.5))
    tiles = _tiles(density, grid)
    maps = colour.view(n * grid * grid, 3, 4)
    mapped = torch.baddbmm(maps[:, None, :, 3], tiles.flatten(1, 2), maps[:, :, :3].transpose(1, 2))
    mapped = _composites(mapped.view_as(tiles), n, grid)
    return (_LIGHT * torch.pow(10.0, -mapped)).clamp_(0.0, _LIGHT)


def _tiles(pixels: torch.Tensor, grid: int) -> torch.Tensor:
    """Cut composites (n, side, side, 3) into their patches (n * grid * grid, P, P, 3)."""
    n, side = pixels.shape[:2]
    patch = side // grid
    rows = pixels.reshape(n, grid, patch, grid, patch, 3).permute(0, 1, 3, 2, 4, 5)
    return rows.reshape(n * grid * grid, patch, patch, 3)


def _composites(tiles: torch.Tensor, n: int, grid: int) -> torch.Tensor:
    """Undo :func:`_tiles`."""
    patch = tiles.shape[1]
    rows = tiles.view(n, grid, grid, patch, patch, 3).permute(0, 1, 3, 2, 4, 5)
    return rows.reshape(n, grid * patch, grid * patch, 3)


def apply_blur(pixels: torch.Tensor, sigmas_px: list[float]) -> torch.Tensor:
    """Blur composites (n, side, side, 3), floating point, each by its own Gaussian; 0 leaves one sharp."""
    if not any(sigmas_px):
        return pixels
    blurred = []
    for composite, sigma in zip(pixels, sigmas_px, strict=True):
        if sigma <= 0:
            blurred.append(composite)
            continue
        size = 2 * max(1, round(_BLUR_RADII * sigma)) + 1
        picture = transforms.gaussian_blur(composite.permute(2, 0, 1), [size, size], [sigma, sigma])
        blurred.append(picture.permute(1, 2, 0))
    return torch.stack(blurred)


def apply_scale(pixels: torch.Tensor, scales: list[float], grid: int) -> torch.Tensor:
    """Magnify each patch of composites (n, side, side, 3), floating point, around its centre.

    What a patch that is made smaller lacks at its edges is mirrored in.
    """
    if all(scale == 1.0 for scale in scales):
        return pixels
    tiles = _tiles(pixels, grid).permute(0, 3, 1, 2)
    maps = torch.zeros((len(tiles), 2, 3), device=pixels.device)
    maps[:, 0, 0] = maps[:, 1, 1] = (1.0 / torch.tensor(scales)).repeat_interleave(grid * grid)
    where = functional.affine_grid(maps, list(tiles.shape), align_corners=False)
    scaled = functional.grid_sample(tiles, where, padding_mode="reflection", align_corners=False)
    return _composites(scaled.permute(0, 2, 3, 1).contiguous(), len(pixels), grid)


def compress(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """Return a composite (side, side, 3), uint8, as it comes back from JPEG of a quality of 1 to 95."""
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "JPEG", quality=quality)
    with Image.open(data) as picture:
        return np.asarray(picture)
