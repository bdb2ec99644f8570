"""Data sets: what they hold, how they are split, and what is said of damaged ones."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from homoode_jax.experiments import sources
from homoode_jax.experiments.config import Data
from homoode_jax.experiments.dataset import Split, _checked, load
from homoode_jax.experiments.errors import UserError

SHARED = Path(__file__).parents[3] / "shared" / "tfds"
needs_tfds = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no prepared data sets in {SHARED}")


def test_digits_are_scikit_learns():
    data = load(Data(dataset="digits"))
    assert data.train.images.shape == (1437, 8, 8, 1) and data.test.images.shape == (360, 8, 8, 1)
    images = np.concatenate([data.train.images, data.test.images])[..., 0]
    theirs = load_digits().images
    assert images.dtype == np.uint8
    assert images.sum(dtype=int) == np.round(theirs * 255 / 16).sum()
    assert sorted(map(bytes, images)) == sorted(
        map(bytes, np.round(theirs * 255 / 16).astype(np.uint8))
    )


def test_validation_is_held_out_by_its_seed():
    whole, data, again, other = (
        load(Data(dataset="digits", validation=size, split_seed=seed))
        for size, seed in ((0, 0), (150, 0), (150, 0), (150, 1))
    )
    together = np.concatenate([data.train.images, data.validation.images])
    assert sorted(map(bytes, together)) == sorted(map(bytes, whole.train.images))
    assert set(data.validation.labels) == set(range(10)) and len(data.validation.labels) == 150
    np.testing.assert_array_equal(data.validation.images, again.validation.images)
    assert not np.array_equal(data.validation.images, other.validation.images)
    np.testing.assert_array_equal(data.test.images, other.test.images)


@pytest.mark.parametrize("size", [5, 1430])
def test_validation_needs_an_image_of_each_class_on_either_side(size):
    with pytest.raises(UserError, match=f"config.data.validation={size} must be 0, or from 10 to"):
        load(Data(dataset="digits", validation=size))


def test_the_first_images_of_each_class_can_be_all_there_is():
    whole, few = (load(Data(dataset="digits", per_class=size)) for size in (0, 20))
    np.testing.assert_array_equal(np.bincount(few.train.labels), 20)
    places = [np.flatnonzero(whole.train.labels == label)[:20] for label in range(10)]
    chosen = np.sort(np.concatenate(places))
    np.testing.assert_array_equal(few.train.images, whole.train.images[chosen])
    np.testing.assert_array_equal(few.test.images, whole.test.images)
    with pytest.raises(UserError, match="per_class=150 is more than the smallest class has, 139"):
        load(Data(dataset="digits", per_class=150))


@needs_tfds
def test_cifar10_is_in_the_order_of_its_ids():
    images, labels = sources.read_tfds("cifar10", str(SHARED), "test")
    source = sources._open_tfds("cifar10", str(SHARED), "test")
    first = min((source[i] for i in range(len(source))), key=lambda record: record["id"])
    np.testing.assert_array_equal(images[0], first["image"])
    assert labels[0] == first["label"]


@needs_tfds
def test_mnist_is_read_without_tensorflow():
    images, labels = sources.read_tfds("mnist", str(SHARED), "test")
    assert images.shape == (10_000, 28, 28, 1) and images.dtype == np.uint8
    # Published class counts of the MNIST test set.
    counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    np.testing.assert_array_equal(np.bincount(labels), counts)


@needs_tfds
def test_a_record_file_cut_short_is_named(tmp_path):
    folder = tmp_path / "mnist"
    shutil.copytree(SHARED / "mnist", folder, copy_function=shutil.copyfile)
    for path in [folder, *folder.iterdir()]:
        path.chmod(0o755)
    file = next(folder.rglob("*test.array_record*"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(UserError, match=r"mnist .*make data DATASET=mnist DATA_DIR=") as caught:
        sources.read_tfds("mnist", str(tmp_path), "test")
    assert "\n" not in str(caught.value)


def test_an_unprepared_data_set_names_the_command(tmp_path):
    with pytest.raises(UserError, match=r"cifar100 is not prepared .*make data DATASET=cifar100"):
        load(Data(dataset="cifar100", data_dir=str(tmp_path)))


def tiny_imagenet(root, classes=200):
    """Writes a Tiny-ImageNet of one image a class."""
    names = [f"n{i:08d}" for i in range(classes)]
    rng, lines = np.random.default_rng(0), []
    for i, name in enumerate(names):
        folder, val = root / "train" / name / "images", root / "val" / "images"
        folder.mkdir(parents=True)
        val.mkdir(parents=True, exist_ok=True)
        image = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(image if i else image[..., 0]).save(folder / f"{name}_0.JPEG")
        Image.fromarray(image).save(val / f"val_{i}.JPEG")
        lines.append(f"val_{i}.JPEG\t{name}\t0\t0\t9\t9")
    (root / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")


def test_tiny_imagenet_is_read_from_its_folder(tmp_path):
    tiny_imagenet(tmp_path / "tiny-imagenet-200")
    data = load(Data(dataset="tiny_imagenet", data_dir=str(tmp_path)))
    assert data.train.images.shape == data.test.images.shape == (200, 64, 64, 3)
    np.testing.assert_array_equal(np.sort(data.test.labels), np.arange(200))
    difference = data.train.images[5].astype(int) - data.test.images[5]
    assert np.abs(difference).max() == 0  # the same picture under the same label
    assert np.ptp(data.train.images[0], axis=-1).max() == 0  # a grey image became a colour one


def test_damaged_tiny_imagenet_is_named(tmp_path):
    with pytest.raises(UserError, match="train does not exist"):
        load(Data(dataset="tiny_imagenet", data_dir=str(tmp_path)))
    root = tmp_path / "tiny-imagenet-200"
    tiny_imagenet(root)
    annotations = root / "val" / "val_annotations.txt"
    good = annotations.read_text()
    annotations.write_text(good.replace("n00000003", "n99999999"))
    with pytest.raises(UserError, match=r"unknown class 'n99999999' of 'val_3\.JPEG'"):
        load(Data(dataset="tiny_imagenet", data_dir=str(tmp_path)))
    annotations.write_text(good)
    image = root / "val" / "images" / "val_7.JPEG"
    image.write_bytes(image.read_bytes()[:200])
    with pytest.raises(UserError, match=r"val_7.JPEG is not a readable image"):
        load(Data(dataset="tiny_imagenet", data_dir=str(tmp_path)))


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (
            np.zeros((10, 8, 8, 3), np.uint8),
            np.arange(10),
            r"should be uint8\[8, 8, 1\], got uint8",
        ),
        (np.zeros((10, 8, 8, 1), np.float32), np.arange(10), "got float32"),
        (np.zeros((10, 8, 8, 1), np.uint8), np.arange(10) + 1, "record 9 has label 10"),
        (np.zeros((10, 8, 8, 1), np.uint8), np.arange(10) % 9, "no image of class 9"),
    ],
)
def test_images_and_labels_must_be_what_the_data_set_holds(images, labels, message):
    with pytest.raises(UserError, match=message):
        _checked("digits", "train", sources.INFO["digits"], Split(images, labels))
