"""Corruptions of images are their formulas: colours by colorsys, noise by its moments."""

import colorsys

import numpy as np
import pytest
from PIL import Image

from benchmarks.compare.corruptions import KINDS, corrupted

rng = np.random.default_rng(0)
IMAGES = rng.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
IMAGES[0, 0, 0] = 0
IMAGES[0, 0, 1] = 90  # without hue


def by_pixel(change):
    """IMAGES, each pixel changed by change(h, s, v)."""
    pixels = [
        colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*(pixel / 255))))
        for pixel in IMAGES.reshape(-1, 3)
    ]
    return 255 * np.reshape(pixels, IMAGES.shape)


def test_brightness_adds_to_the_value():
    want = by_pixel(lambda h, s, v: (h, s, min(v + 0.15, 1)))
    np.testing.assert_allclose(corrupted(IMAGES, "brightness", 3), want, atol=0.51)


@pytest.mark.parametrize(("strength", "factor", "shift"), [(1, 0.3, 0), (3, 1.5, 0), (4, 2, 0.1)])
def test_saturation_is_scaled_and_shifted(strength, factor, shift):
    want = by_pixel(lambda h, s, v: (h, min(factor * s + shift, 1), v))
    np.testing.assert_allclose(corrupted(IMAGES, "saturation", strength), want, atol=0.51)


def test_contrast_keeps_means_and_scales_deviations():
    got = corrupted(IMAGES, "contrast", 2) / 255
    image = IMAGES / 255
    np.testing.assert_allclose(got.mean((1, 2)), image.mean((1, 2)), atol=2e-3)
    np.testing.assert_allclose(got.std((1, 2)), 0.5 * image.std((1, 2)), atol=2e-3)


def test_noise_has_its_moments():
    grey = np.full((40, 32, 32, 3), 128, np.uint8)
    mean = 128 / 255
    deviations = {
        "Gaussian noise": 0.08,
        "shot noise": (mean / 100) ** 0.5,
        "speckle noise": 0.12 * mean,
        "impulse noise": (0.03 * (mean**2 + (1 - mean) ** 2) / 2) ** 0.5,
    }
    for kind, want in deviations.items():
        got = corrupted(grey, kind, 3) / 255
        assert got.std() == pytest.approx(want, rel=0.03), kind
        assert got.mean() == pytest.approx(mean, abs=2e-3), kind
        assert np.array_equal(corrupted(grey, kind, 3) / 255, got)


def test_blur_keeps_the_mean_and_pixelating_is_by_boxes():
    flat = np.zeros((1, 33, 33, 3), np.uint8)
    flat[0, 16, 16] = 255
    kernel = corrupted(flat, "blur", 5)[0, :, :, 0] / 255
    assert kernel[16, 16] == pytest.approx(1 / (2 * np.pi), rel=0.05)  # of a width of 1
    assert kernel.sum() == pytest.approx(1, rel=0.05)
    one = corrupted(IMAGES, "pixelate", 5)[0]
    fewer = Image.fromarray(IMAGES[0]).resize((5, 5), Image.Resampling.BOX)
    assert {tuple(p) for p in one.reshape(-1, 3)} == {
        tuple(p) for p in np.asarray(fewer).reshape(-1, 3)
    }


def test_jpeg_is_near_the_image_and_nearer_at_a_higher_quality():
    smooth = np.uint8(np.linspace(0, 255, 3 * 32 * 32).reshape(1, 32, 32, 3))
    errors = [np.abs(corrupted(smooth, "JPEG", s) / 255 - smooth / 255).mean() for s in (1, 5)]
    assert 0 < errors[0] < errors[1] < 0.05


def test_every_kind_has_five_strengths_and_keeps_shape_and_dtype():
    for kind, (_, strengths) in KINDS.items():
        assert len(strengths) == 5
        got = corrupted(IMAGES, kind, 5)
        assert got.shape == IMAGES.shape and got.dtype == np.uint8
