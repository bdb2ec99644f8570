"""Data sets: what they hold, how they are split, and what is said of damaged ones."""

import dataclasses
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from homoode_jax.experiments import dataset, sources
from homoode_jax.experiments.config import DataSettings, from_dict
from homoode_jax.experiments.dataset import _gather, load
from homoode_jax.experiments.errors import UserError
from homoode_jax.experiments.images import ALL, Reading, Record, Share
from homoode_jax.experiments.run import Run

SHARED = Path(__file__).parents[3] / "shared" / "tfds"
needs_tfds = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no prepared data sets in {SHARED}")


def test_digits_are_scikit_learns():
    data = load(DataSettings(dataset="digits"))
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
        load(DataSettings(dataset="digits", validation=size, split_seed=seed))
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
        load(DataSettings(dataset="digits", validation=size))


def test_the_first_images_of_each_class_can_be_all_there_is():
    whole, few = (load(DataSettings(dataset="digits", per_class=size)) for size in (0, 20))
    np.testing.assert_array_equal(np.bincount(few.train.labels), 20)
    places = [np.flatnonzero(whole.train.labels == label)[:20] for label in range(10)]
    chosen = np.sort(np.concatenate(places))
    np.testing.assert_array_equal(few.train.images, whole.train.images[chosen])
    np.testing.assert_array_equal(few.test.images, whole.test.images)
    with pytest.raises(UserError, match="per_class=150 is more than the smallest class has, 139"):
        load(DataSettings(dataset="digits", per_class=150))


@pytest.mark.slow
@needs_tfds
def test_cifar10_is_in_the_order_of_its_ids():
    data = load(DataSettings(dataset="cifar10", data_dir=str(SHARED)))
    source = sources._open_tfds("cifar10", str(SHARED), "test")
    first = min((source[i] for i in range(len(source))), key=lambda record: record["id"])
    expected = np.asarray(Image.open(io.BytesIO(first["image"])))
    np.testing.assert_array_equal(data.test.images[0], expected)
    assert data.test.labels[0] == first["label"]


@pytest.mark.slow
@needs_tfds
@pytest.mark.parametrize("damaged", [False, True])
def test_two_halves_are_in_one_order(damaged, monkeypatch):
    """What each process tells of its half gives both the order of the whole."""
    data = DataSettings(dataset="cifar10", data_dir=str(SHARED), skip_damaged=True)
    info = sources.INFO["cifar10"]
    halves = Share(4, 0, 2), Share(4, 2, 4)
    readings = {share: info.read(data.data_dir, "test", share) for share in halves}
    if damaged:  # to one of them
        records = readings[halves[1]].records
        records[5] = records[5]._replace(image=ValueError("cut"))
    whole = Reading(10_000, [r for part in readings.values() for r in part.records])
    info = info._replace(read=lambda *where: readings.get(where[2], whole))
    expected = _gather(data, "test", info, Share(4, 0, 4))
    told = []
    assert len(expected.images) == 10_000 - damaged

    for share in halves:  # notes what each would tell, then gives both what both have told
        told.append([])
        monkeypatch.setattr(dataset, "maximum_over_processes", lambda a: told[-1].append(a) or a)
        _gather(data, "test", info, share)
    both = [np.maximum(*arrays) for arrays in zip(*told, strict=True)]
    found = []
    for share in halves:
        answers = iter(both)
        monkeypatch.setattr(
            dataset, "maximum_over_processes", lambda a, answers=answers: next(answers)
        )
        found.append(_gather(data, "test", info, share))
    for split in found:
        np.testing.assert_array_equal(split.labels, expected.labels)
        np.testing.assert_array_equal(split.part, expected.part)
        here = split.place >= 0
        np.testing.assert_array_equal(
            split.images[split.place[here]], expected.images[expected.place[here]]
        )
    assert np.all((found[0].place >= 0) ^ (found[1].place >= 0))


@pytest.mark.slow
@needs_tfds
def test_mnist_is_read_without_tensorflow():
    data = load(DataSettings(dataset="mnist", data_dir=str(SHARED)))
    assert data.test.images.shape == (10_000, 28, 28, 1) and data.test.images.dtype == np.uint8
    # Published class counts of the MNIST test set.
    counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    np.testing.assert_array_equal(np.bincount(data.test.labels), counts)


@pytest.fixture
def mnist(tmp_path):
    """A copy of the prepared MNIST whose files can be written."""
    folder = tmp_path / "mnist"
    shutil.copytree(SHARED / "mnist", folder, copy_function=shutil.copyfile)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755)
    return tmp_path


@needs_tfds
def test_a_record_file_cut_short_is_named(mnist):
    file = next(mnist.rglob("*test.array_record*"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(UserError, match=r"mnist .*make data DATASET=mnist DATA_DIR=") as caught:
        sources.read_tfds("mnist", str(mnist), "test")
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@needs_tfds
def test_a_record_that_is_no_image_is_named_or_left_out(mnist, capsys):
    from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

    file = next(mnist.rglob("*test.array_record*"))
    reader = ArrayRecordReader(str(file))
    whole = [reader.read([i])[0] for i in range(reader.num_records())]
    reader.close()
    options = "group_size:1"
    writer = ArrayRecordWriter(str(file), options)
    for i, record in enumerate(whole):
        middle = len(record) // 2
        writer.write(record[:middle] + bytes(60) + record[middle + 60 :] if i == 4321 else record)
    writer.close()
    data = DataSettings(dataset="mnist", data_dir=str(mnist))
    info = sources.INFO["mnist"]
    with pytest.raises(UserError, match=r"record 4321 of .*mnist-test\.array_record") as caught:
        _gather(data, "test", info, ALL)
    assert "\n" not in str(caught.value) and "config.data.skip_damaged=True" in str(caught.value)
    found = _gather(dataclasses.replace(data, skip_damaged=True), "test", info, ALL)
    assert "warning: 1 of 10000 records of mnist (test)" in capsys.readouterr().out
    assert len(found.labels) == 9999
    kept = sources.read_tfds("mnist", str(SHARED), "test").records
    np.testing.assert_array_equal(found.images[4321], kept[4322].image)


def test_an_unprepared_data_set_names_the_command(tmp_path):
    data = DataSettings(dataset="cifar100", data_dir=str(tmp_path))
    command = rf"repare it with: make data DATASET=cifar100 DATA_DIR={tmp_path}$"
    with pytest.raises(UserError, match=rf"^cifar100 is not prepared in {tmp_path}\. P{command}"):
        load(data)
    (tmp_path / "cifar100").mkdir()
    with pytest.raises(UserError, match=rf"^cifar100 in {tmp_path} cannot be read \(.*{command}"):
        load(data)


def tiny_imagenet(root, classes=200):
    """Writes a Tiny-ImageNet of one image a class."""
    names = [f"n{i:08d}" for i in range(classes)]
    rng = np.random.default_rng(0)
    lines = []
    for i, name in enumerate(names):
        folder = root / "train" / name / "images"
        val = root / "val" / "images"
        folder.mkdir(parents=True)
        val.mkdir(parents=True, exist_ok=True)
        image = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(image if i else image[..., 0]).save(folder / f"{name}_0.JPEG")
        Image.fromarray(image).save(val / f"val_{i}.JPEG")
        lines.append(f"val_{i}.JPEG\t{name}\t0\t0\t9\t9")
    (root / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")


def test_tiny_imagenet_is_read_from_its_folder(tmp_path):
    tiny_imagenet(tmp_path / "tiny-imagenet-200")
    data = load(DataSettings(dataset="tiny_imagenet", data_dir=str(tmp_path)))
    assert data.train.images.shape == data.test.images.shape == (200, 64, 64, 3)
    np.testing.assert_array_equal(np.sort(data.test.labels), np.arange(200))
    difference = data.train.images[5].astype(int) - data.test.images[5]
    assert np.abs(difference).max() == 0  # the same picture under the same label
    assert np.ptp(data.train.images[0], axis=-1).max() == 0  # a grey image became a colour one


def test_a_batch_must_have_as_many_images_of_each_part():
    for name in ("batch_size", "eval_batch_size"):
        with pytest.raises(UserError, match=rf"config.train.{name}=64 must be a multiple of .*=24"):
            from_dict(
                {
                    "data": {"shares": 24},
                    "train": {"batch_size": 72, "eval_batch_size": 72, name: 64},
                }
            )
    config = from_dict(
        {"data": {"shares": 64}, "train": {"batch_size": 2048, "eval_batch_size": 64}}
    )
    with pytest.raises(UserError, match=r"1437 images in config.data.shares=64 parts"):
        Run(config, Path(), load(config.data))  # nothing is written


def test_shares_are_the_whole_together(tmp_path):
    """And none reads what belongs to another."""
    tiny_imagenet(tmp_path / "tiny-imagenet-200")
    for name, where, kind in (
        ("digits", "", "train"),
        ("tiny_imagenet", str(tmp_path), "train"),
        ("tiny_imagenet", str(tmp_path), "test"),
    ):
        read = sources.INFO[name].read
        whole = read(where, kind, ALL)
        shares = [read(where, kind, Share(6, first, first + 2)) for first in (0, 2, 4)]
        assert {share.count for share in shares} == {len(whole.records)} == {whole.count}
        records = [record for share in shares for record in share.records]
        records.sort(key=lambda record: record.number)
        assert [record.number for record in records] == list(range(whole.count))
        for record, other in zip(records, whole.records, strict=True):
            assert (record.place, record.label) == (other.place, other.label)
            np.testing.assert_array_equal(record.image, other.image)


def test_what_a_system_hides_is_no_data(tmp_path):
    """Neither a class nor an image; and images are images whatever the case of their names."""
    root = tmp_path / "tiny-imagenet-200"
    tiny_imagenet(root)
    (root / "train" / ".cache").mkdir()
    folder = root / "train" / "n00000005" / "images"
    (folder / "._n00000005_0.JPEG").write_bytes(b"no image")
    (folder / "notes.txt").write_text("no image")
    shutil.copy(folder / "n00000005_0.JPEG", folder / "n00000005_1.jpeg")
    data = load(DataSettings(dataset="tiny_imagenet", data_dir=str(tmp_path)))
    np.testing.assert_array_equal(np.bincount(data.train.labels), [1] * 5 + [2] + [1] * 194)


@pytest.mark.parametrize("name", ["__MACOSX", "n0000005", "n00000999"])
def test_a_folder_too_many_is_named_or_counted(name, tmp_path):
    """It would give all classes after it the label of another."""
    root = tmp_path / "tiny-imagenet-200"
    tiny_imagenet(root)
    (root / "train" / name / "images").mkdir(parents=True)
    words = "201 folders of classes; there must be 200" if len(name) == 9 else f"'{name}', which is"
    with pytest.raises(UserError, match=words):
        load(DataSettings(dataset="tiny_imagenet", data_dir=str(tmp_path)))


def test_data_may_be_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    tiny_imagenet(tmp_path / "data" / "tiny-imagenet-200")
    data = load(DataSettings(dataset="tiny_imagenet", data_dir="~/data"))
    assert len(data.train.labels) == 200
    with pytest.raises(UserError, match="cifar10 is not prepared in ~/here"):
        load(DataSettings(dataset="cifar10", data_dir="~/here"))


@needs_tfds
@pytest.mark.parametrize("change", ["the numbers alone", "half of the files too"])
def test_half_of_a_data_set_is_refused(change, mnist, monkeypatch):
    """TFDS reads as many records as are said to be there."""
    file = next(mnist.rglob("dataset_info.json"))
    file.write_text(file.read_text().replace('"10000"', '"5000"'))
    words = "test.array_record.* holds 10000 records; its dataset_info.json says 5000"
    if change != "the numbers alone":
        monkeypatch.setattr(sources, "_shards", lambda source, split: [])
        words = "it has 5000 records; 10000 were published"
    with pytest.raises(UserError, match=rf"mnist \(test\) is not whole: .*{words}.*make data"):
        sources.read_tfds("mnist", str(mnist), "test")


ANNOTATIONS = "val/val_annotations.txt"


def rewrite(file, change):
    file.write_bytes(change(file.read_bytes()))


def resize(file, size):
    Image.open(file).resize(size).save(file)


def some_image(root, rng):
    return rng.choice(sorted(root.rglob("*.JPEG")))


DAMAGES = {  # what is done to a folder
    "an image cut short": lambda root, rng: rewrite(
        some_image(root, rng), lambda old: old[: rng.integers(len(old) // 3)]
    ),
    "an empty image": lambda root, rng: some_image(root, rng).write_bytes(b""),
    "noise for an image": lambda root, rng: some_image(root, rng).write_bytes(rng.bytes(900)),
    "a text for an image": lambda root, rng: some_image(root, rng).write_text("hello\nworld"),
    "an image of another size": lambda root, rng: resize(
        some_image(root, rng), tuple(map(int, rng.integers(1, 64, 2)))
    ),
    "a folder for an image": lambda root, rng: (
        (file := some_image(root, rng)).unlink(),
        file.mkdir(),
    ),
    "an image gone": lambda root, rng: rng.choice(sorted((root / "val").rglob("*.JPEG"))).unlink(),
    "an unknown class": lambda root, rng: rewrite(
        root / ANNOTATIONS, lambda old: old.replace(b"n0000007", b"n9999999")
    ),
    "annotations cut short": lambda root, rng: rewrite(
        root / ANNOTATIONS, lambda old: old[: rng.integers(len(old) - 60)]
    ),
    "annotations of noise": lambda root, rng: (root / ANNOTATIONS).write_bytes(rng.bytes(999)),
    "no annotations": lambda root, rng: (root / ANNOTATIONS).unlink(),
    "an empty class": lambda root, rng: [
        file.unlink() for file in rng.choice(sorted((root / "train").iterdir())).rglob("*.JPEG")
    ],
    "a class gone": lambda root, rng: shutil.rmtree(rng.choice(sorted((root / "train").iterdir()))),
    "no classes": lambda root, rng: [
        shutil.rmtree(folder) for folder in (root / "train").iterdir()
    ],
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole") / "tiny-imagenet-200"
    tiny_imagenet(root)
    return root


@pytest.mark.quick(2)
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_data_gets_one_line_that_names_the_file(damage, whole, tmp_path, capsys):
    """Three of each kind, and one of them with damaged records left out."""
    for seed in range(3):
        root = tmp_path / str(seed) / "tiny-imagenet-200"
        shutil.copytree(whole, root)
        DAMAGES[damage](root, np.random.default_rng(seed))
        for skip in (False, True)[: 1 if seed else 2]:
            data = DataSettings(
                dataset="tiny_imagenet", data_dir=str(root.parent), skip_damaged=skip
            )
            with pytest.raises(UserError) as caught:
                load(data)
            text = str(caught.value)
            assert "\n" not in text and 20 < len(text) < 600, text
            # With one image a class, a record that is left out leaves its class empty.
            assert str(root) in text or "no image of class" in text, text
            assert skip or ".JPEG" in text or "val_annotations" in text or "class" in text, text
        shutil.rmtree(root)
    assert "Traceback" not in capsys.readouterr().out


def test_annotations_cannot_lead_out_of_their_folder(whole, tmp_path):
    """Not even to an image that is there and whole."""
    root = tmp_path / "tiny-imagenet-200"
    shutil.copytree(whole, root)
    shutil.copy(root / "val/images/val_7.JPEG", tmp_path / "secret.JPEG")
    rewrite(root / ANNOTATIONS, lambda old: old.replace(b"val_7.", b"../../../secret."))
    with pytest.raises(UserError, match=r"'../../../secret.JPEG' is not a file of its folder"):
        load(DataSettings(dataset="tiny_imagenet", data_dir=str(tmp_path)))


def test_records_that_are_left_out_are_counted(whole, tmp_path, capsys):
    root = tmp_path / "tiny-imagenet-200"
    shutil.copytree(whole, root)
    for i in range(3):  # of classes that have another image
        folder = root / "train" / f"n{i:08d}" / "images"
        (folder / "more.JPEG").write_bytes(b"no image")
    data = DataSettings(dataset="tiny_imagenet", data_dir=str(tmp_path), skip_damaged=True)
    found = load(data)
    out = capsys.readouterr().out
    assert "warning: 3 of 203 records of tiny_imagenet (train) are damaged and left out" in out
    assert "more.JPEG" in out
    np.testing.assert_array_equal(
        found.train.images, load(dataclasses.replace(data, data_dir=str(whole.parent))).train.images
    )


@pytest.mark.parametrize(
    ("image", "label", "message"),
    [
        (np.zeros((8, 8, 3), np.uint8), 0, r"should be an image of uint8\[8, 8, 1\], got uint8"),
        (np.zeros((8, 8, 1), np.float32), 0, "got float32"),
        (np.full((8, 8, 1), 300.0), 0, "got float64"),
        (np.zeros((8, 8, 1), np.uint8), 10, "has label 10; labels go from 0 to 9"),
        (np.zeros((8, 8, 1), np.uint8), -1, "has label -1"),
        (ValueError("cut\nshort"), 0, r"is not a readable image: cut\. Mend"),
    ],
)
def test_a_record_must_be_what_the_data_set_holds(image, label, message, monkeypatch, capsys):
    info = sources.INFO["digits"]

    def read(*where):
        count, records = info.read(*where)
        bad = Record(count, "record 5 of file", image, label)
        return Reading(count + 1, [*records, bad])

    monkeypatch.setitem(sources.INFO, "digits", info._replace(read=read))
    with pytest.raises(UserError, match=r"digits \(train\): record 5 of file .*" + message):
        load(DataSettings(dataset="digits"))
    assert len(load(DataSettings(dataset="digits", skip_damaged=True)).train.labels) == 1437
    assert capsys.readouterr().out.count("warning: 1 of ") == 2


def test_a_class_must_have_an_image(monkeypatch):
    info = sources.INFO["digits"]

    def read(*where):
        found = info.read(*where)
        return found._replace(records=[record for record in found.records if record.label != 9])

    monkeypatch.setitem(sources.INFO, "digits", info._replace(read=read))
    with pytest.raises(UserError, match="there is no image of class 9"):
        load(DataSettings(dataset="digits"))
