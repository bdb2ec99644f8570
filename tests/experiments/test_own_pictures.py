"""A user's own pictures: trained on, evaluated, predicted, and what is wrong with a folder."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from homoode_jax.experiments.config import from_dict, name_classes
from homoode_jax.experiments.dataset import load
from homoode_jax.experiments.errors import UserError
from homoode_jax.experiments.image_folder import _files, left_out
from homoode_jax.experiments.images import fit
from homoode_jax.experiments.workdir import stored_config
from tests.experiments.runs import command

INK = {"blue": (30, 40, 220), "red": (230, 30, 20)}
FLAGS = [
    "--config=folder",
    "--config.model.layer=none",
    "--config.model.channels=4",
    "--config.model.groups=2",
    "--config.model.width=8",
    "--config.data.size=8",
    "--config.data.crop_padding=0",
    "--config.train.batch_size=8",
    "--config.train.epochs=15",
]


def draw(file, ink, size, seed, mode="RGB"):
    """Draws a picture of one colour with noise."""
    noise = np.random.default_rng(seed).integers(-20, 20, (*size, 3))
    pixels = np.clip(np.array(ink) + noise, 0, 255).astype(np.uint8)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(mode).save(file)


def draw_folder(folder, splits=("train/", "test/"), count=12):
    """Draws pictures of many sizes and kinds in folders of classes."""
    for split in splits:
        for name, ink in INK.items():
            for i in range(count):
                suffix = ("png", "jpg", "JPEG")[i % 3]
                size = (12 + 5 * i, 40 - 2 * (i % 12))
                draw(folder / f"{split}{name}" / f"{i}.{suffix}", ink, size, seed=i)
    return folder


def settings(folder, **data):
    return from_dict({"data": {"dataset": "folder", "data_dir": str(folder), "size": 8, **data}})


def refused(folder, message, **data):
    with pytest.raises(UserError, match=message) as caught:
        load(name_classes(settings(folder, **data)).data)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return draw_folder(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def run(pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("own") / "run"
    assert command(*FLAGS, f"--config.data.data_dir={pictures}", f"--workdir={folder}") == 0
    return folder


def test_training_and_evaluation(run, capsys):
    config = stored_config(run)
    assert config is not None and config.data.class_names == ("blue", "red")
    assert command("evaluate", f"--workdir={run}") == 0
    result = json.loads((run / "evaluation.json").read_text())
    assert result["test_accuracy"] == 1
    assert result["accuracy_by_class"] == {"blue": 1, "red": 1}
    assert (run / "confusion.png").read_bytes().startswith(b"\x89PNG")
    assert "most taken for" in capsys.readouterr().out


def test_predictions_name_the_classes(run, pictures, tmp_path, capsys):
    draw(tmp_path / "one.png", INK["red"], (300, 200), seed=5, mode="RGBA")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    assert command("predict", f"--workdir={run}", str(tmp_path / "one.png")) == 0
    out = capsys.readouterr().out
    assert "one.png" in out and "red" in out
    paths = [str(tmp_path), str(pictures / "test")]
    assert command("predict", "--json", f"--workdir={run}", *paths) == 0
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert len(rows) == 25
    assert {row["prediction"] for row in rows if "/blue/" in row["image"]} == {"blue"}
    assert rows[0]["image"].endswith("one.png") and rows[0]["prediction"] == "red"
    assert rows[0]["label"] == 1 and 0.5 < rows[0]["probability"] <= 1 and rows[0]["success"]
    assert err.startswith("warning: ") and "broken.png is left out" in err


def test_predictions_of_nothing_are_refused(run, tmp_path, capsys):
    for paths, says in (
        ([], "predict needs images"),
        (["/nowhere.png"], "/nowhere.png does not exist"),
        ([str(tmp_path)], "holds no image"),
    ):
        assert command("predict", f"--workdir={run}", *paths) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: ") and err.count("\n") == 1 and says in err
    assert command("predict", "x.png") == 2
    assert "predict needs --workdir of a run" in capsys.readouterr().err


@pytest.mark.parametrize("splits", [("",), ("train/",)])
def test_a_share_of_each_class_is_held_out_where_there_is_no_test_split(splits, tmp_path):
    data = name_classes(settings(draw_folder(tmp_path, splits, count=10))).data
    first, again = load(data), load(data)
    assert len(first.train.labels) + len(first.test.labels) == 20
    assert np.all(np.bincount(first.train.labels) >= 5)
    assert np.all(np.bincount(first.test.labels) >= 1)
    np.testing.assert_array_equal(first.test.images, again.test.images)
    other = load(name_classes(settings(tmp_path, split_seed=3)).data)
    assert np.any(first.test.images != other.test.images)


def test_a_picture_is_scaled_to_its_shorter_side_and_its_middle_cut_out(tmp_path):
    pixels = np.zeros((40, 100, 3), np.uint8)
    pixels[:, 30:70] = 255  # the middle square
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.all(fit(tmp_path / "a.png", (8, 8, 3)) > 200)  # the filter sees a little beside it
    assert fit(tmp_path / "a.png", (8, 8, 1)).shape == (8, 8, 1)


def test_a_picture_is_turned_as_its_camera_was_held(tmp_path):
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[:20] = 255  # white above
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = 3  # upside down
    image.save(tmp_path / "a.png", exif=exif)
    turned = fit(tmp_path / "a.png", (8, 8, 3))
    assert turned[0].max() < 60 < 200 < turned[-1].min()


def test_what_is_wrong_with_a_folder_is_said(tmp_path):
    refused(tmp_path / "none", "config.data.data_dir=.* is not a folder")
    refused("", "config.data.data_dir='' is not a folder")
    refused(tmp_path, "holds 0 folders of classes; two are the least")
    draw_folder(tmp_path)
    draw(tmp_path / "test" / "green" / "0.png", (0, 200, 0), (9, 9), seed=0)
    refused(tmp_path, "test has a class 'green'; the classes are 'blue', 'red'")
    draw_folder(tmp_path, ("train/",), count=0)
    (tmp_path / "train" / "green").mkdir()
    refused(tmp_path, r"train/green holds no picture \(")
    draw(tmp_path / "train" / "green" / "0.png", (0, 200, 0), (9, 9), seed=0, mode="I;16")
    refused(tmp_path, r"0.png is not a readable image: its mode is I;16")


def test_settings_of_folders_are_for_folders():
    for change in ({"size": 64}, {"class_names": ["a", "b"]}, {"colour": False}):
        with pytest.raises(UserError, match=r"is for config.data.dataset='folder', not 'digits'"):
            from_dict({"data": change})


def test_another_order_of_classes_is_refused(run, pictures, capsys):
    flags = [*FLAGS, f"--config.data.data_dir={pictures}", f"--workdir={run}"]
    assert command(*flags, "--config.data.class_names=('red', 'blue')") == 2
    assert "data.class_names" in capsys.readouterr().err


def held_out(folder):
    return {(file.parent.name, file.name) for file, _ in _files(str(folder), "test", NAMES, 0.2, 0)}


NAMES = ("blue", "red")


def test_a_picture_stays_in_its_split_when_others_come_and_go(tmp_path):
    """Else one that was trained on would be tested."""
    folder = draw_folder(tmp_path, splits=("",), count=30)
    before = held_out(folder)
    assert 4 <= len(before) <= 20  # of 60, a fifth on average
    draw(folder / "red" / "new.png", INK["red"], (9, 9), seed=1)
    (folder / "blue" / "3.png").unlink()
    after = held_out(folder)
    assert before - after <= {("blue", "3.png")} and after - before <= {("red", "new.png")}
    train = {(f.parent.name, f.name) for f, _ in _files(str(folder), "train", NAMES, 0.2, 0)}
    assert not train & after and len(train) + len(after) == 60


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_a_class_of_few_pictures_is_trained_on_and_tested(share, tmp_path):
    folder = draw_folder(tmp_path, splits=("",), count=2)
    for split in ("train", "test"):
        files = _files(str(folder), split, NAMES, share, seed=0)
        assert [label for _, label in files] == [0, 1]


def test_the_folder_may_be_the_present_one(tmp_path, monkeypatch):
    monkeypatch.chdir(draw_folder(tmp_path, splits=("",)))
    data = load(name_classes(settings(".")).data)
    assert len(data.train.labels) + len(data.test.labels) == 24


def test_a_validation_split_of_a_class_of_one_picture_is_refused(tmp_path):
    folder = draw_folder(tmp_path)
    for file in list((folder / "train" / "red").iterdir())[1:]:
        file.unlink()
    refused(folder, "one class has a single training image", validation=2)


def test_a_name_may_begin_with_a_tilde(run, pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copy(next((pictures / "test" / "red").iterdir()), "~picture.png")
    assert command("predict", f"--workdir={run}", "~picture.png") == 0
    assert "red" in capsys.readouterr().out
    assert command("compare", "~nobody") == 2
    assert command("train", *FLAGS, "--config.data.data_dir=~nobody/x") == 2
    assert capsys.readouterr().err.count("error:") == 2


def test_curves_that_cannot_be_drawn_end_no_training(pictures, tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise ValueError("no such backend\nreally")

    monkeypatch.setattr("homoode_jax.experiments.training.draw_curves", fail)
    short = "--config.train.epochs=1"
    where = [f"--config.data.data_dir={pictures}", f"--workdir={tmp_path}/run"]
    assert command(*FLAGS, short, *where) == 0
    assert "curves.png is not drawn: no such backend\n" in capsys.readouterr().out


def test_weights_of_a_run_with_larger_batches(pictures, run, tmp_path):
    few = draw_folder(tmp_path / "few", count=2)
    flags = [f"--config.data.data_dir={few}", f"--workdir={tmp_path}/run", f"--init={run}"]
    assert command(*FLAGS, "--config.train.batch_size=4", *flags) == 0


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(tmp_path, mode):
    """Black ink on a ground that is black too, where it can be seen."""
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (2, 2, 6, 6))
    image.convert(mode).save(tmp_path / "ink.png")
    for channels in (1, 3):
        pixels = fit(tmp_path / "ink.png", (8, 8, channels))
        assert pixels[3, 3].max() == 0
        assert pixels[0, 0].min() == 255


def test_pictures_in_folders_of_a_class_count(tmp_path):
    folder = draw_folder(tmp_path, count=3)
    draw(folder / "train" / "red" / "second day" / "0.png", INK["red"], (12, 12), seed=9)
    data = load(name_classes(settings(folder)).data)
    assert len(data.train.labels) == 7


def test_what_is_left_out_is_said(tmp_path, capsys):
    folder = draw_folder(tmp_path)
    shutil.copy(folder / "train" / "red" / "0.png", folder / "train" / "red" / "0.webp")
    draw_folder(tmp_path, splits=("val/",))
    flags = [f"--config.data.data_dir={folder}", f"--workdir={tmp_path}/run"]
    assert command(*FLAGS, "--config.train.epochs=1", *flags) == 0
    said = capsys.readouterr().out
    assert "0.webp is left out, one of 1 such files" in said.replace("\n", "")
    assert f"{folder}/val is left out" in said.replace("\n", "")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["evaluate", "--json"], "--json belongs to predict"),
        (["predict", "--init=run", "x.png"], "--init belongs to train"),
        (["predict", "--config.model.layer=deq", "x.png"], "drop --config.model.layer"),
        (["export", "--allow_restart"], "--allow_restart belongs to train"),
    ],
)
def test_a_flag_that_would_do_nothing_is_refused(arguments, named, capsys):
    assert command(*arguments) == 2
    assert named in capsys.readouterr().err


def test_nothing_is_said_of_what_lies_beside_the_folder_that_is_named(tmp_path):
    folder = draw_folder(tmp_path, splits=("train/", "other/"), count=1)
    assert any("other" in line for line in left_out(str(folder)))
    assert left_out(str(folder / "train")) == []
