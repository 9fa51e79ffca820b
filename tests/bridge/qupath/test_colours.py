from __future__ import annotations

import numpy as np
import pytest
from helpers.small_slides import scanner_profile

from bridge.qupath.jvm import start_qupath
from herohe_model.slides.icc import ColourTransform

pytestmark = pytest.mark.qupath


def test_colours_by_a_profile_are_those_of_qupath_byte_for_byte() -> None:
    """As QuPath's reader does it: by Java, from the embedded profile to Java's sRGB, in place."""
    import jpype

    java = start_qupath().java
    profiles = java("java.awt.color.ICC_Profile")
    embedded = profiles.getInstance(jpype.JArray(jpype.JByte)(np.frombuffer(scanner_profile(), np.int8)))
    srgb = profiles.getInstance(java("java.awt.color.ColorSpace").CS_sRGB)
    operation = java("java.awt.image.ColorConvertOp")(jpype.JArray(profiles)([embedded, srgb]), None)
    pixels = np.random.default_rng(0).integers(0, 256, (256, 512, 3), dtype=np.uint8)
    images = java("java.awt.image.BufferedImage")
    image = images(512, 256, images.TYPE_INT_RGB)
    packed = (pixels.astype(np.int32) * (1 << 16, 1 << 8, 1)).sum(axis=2, dtype=np.int32)
    image.setRGB(0, 0, 512, 256, jpype.JArray(jpype.JInt)(packed.ravel()), 0, 512)
    operation.filter(image.getRaster(), image.getRaster())
    wanted = np.array(image.getRGB(0, 0, 512, 256, None, 0, 512)).reshape(256, 512)
    found = ColourTransform(scanner_profile(), "a").apply(pixels)
    assert (np.stack([wanted >> 16, wanted >> 8, wanted], axis=2).astype(np.uint8) == found).all()
    assert np.abs(found.astype(int) - pixels).mean() > 5
