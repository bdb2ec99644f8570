"""Configuration: every file is valid, and what is wrong is refused in one clear line."""

import importlib.util
import json
from pathlib import Path

import pytest

from homoode_jax.experiments.config import Config, defaults, differing_settings, from_dict, to_dict
from homoode_jax.experiments.errors import UserError

FILES = sorted((Path(__file__).parents[2] / "configs").glob("*.py"))

MISTAKES = {
    "unknown section": ({"trian": {}}, "config.trian is not a setting. Did you mean 'train'?"),
    "unknown key": ({"train": {"epoch": 3}}, "config.train.epoch is not .* Did you mean 'epochs'?"),
    "text for a number": ({"train": {"epochs": "3"}}, "config.train.epochs='3' must be a whole"),
    "fraction for an integer": ({"train": {"epochs": 2.5}}, "epochs=2.5 must be a whole number"),
    "number for a switch": ({"train": {"tensorboard": 1}}, "must be True or False"),
    "too small": ({"train": {"epochs": 0}}, "epochs=0 is out of range; it must be from 1 to"),
    "too large": ({"data": {"flip": 1.5}}, "flip=1.5 is out of range; it must be from 0 to 1"),
    "not a number": ({"solver": {"rtol": float("nan")}}, "rtol=nan must be a finite number"),
    "unknown choice": ({"data": {"dataset": "minst"}}, "'minst' is not one of .*'mnist'"),
    "not a section": ({"model": 3}, "config.model must be a section"),
    "not a list": ({"data": {"mean": 0.5}}, "config.data.mean=0.5 must be a list"),
    "groups": ({"model": {"channels": 48}}, "channels=48 must be a multiple"),
    "constant without dt0": ({"solver": {"controller": "constant"}}, "needs config.solver.dt0"),
    "too few steps": (
        {"solver": {"controller": "constant", "dt0": 0.01}},
        r"dt0 of at least .* = 0.01562",
    ),
    "no tolerance": ({"solver": {"rtol": 0, "atol": 0}}, "must not both be 0"),
    "too fine a path": (
        {"model": {"layer": "continuation"}, "continuation": {"rtol": 1e-12}},
        "config.continuation.rtol=1e-12 cannot be reached in config.model.dtype=float32",
    ),
    "too fine a root": (
        {"model": {"layer": "deq"}, "equilibrium": {"tol": 1e-8}},
        "config.equilibrium.tol=1e-08 cannot be reached in config.model.dtype=float32",
    ),
    "infinite": ({"train": {"learning_rate": float("inf")}}, "inf must be a finite number"),
    "huge": ({"train": {"learning_rate": 10**400}}, "must be a finite number"),
    "crop": ({"data": {"crop_padding": 5}}, "crop_padding=5 is more than half the image, 8x8"),
    "colours of a grey image": ({"data": {"mean": [0.1, 0.2, 0.3]}}, "digits takes one"),
    "nothing at all": (None, "must hold sections"),
    "euler with pid": ({"solver": {"method": "euler"}}, "euler.* has no error estimate"),
    "unrolled rungs": (
        {"model": {"layer": "deq"}, "equilibrium": {"solver": "robust", "adjoint": "unrolled"}},
        "solver='robust' has no gradient through its steps; set config.equilibrium.adjoint",
    ),
    "kinetic of a DEQ": (
        {"model": {"layer": "deq"}, "regularise": {"kinetic": 0.1}},
        "regularise.kinetic is for layers that integrate; deq does not",
    ),
    "jacobian of an ODE": ({"regularise": {"jacobian": 0.1}}, "homoode does not"),
    "adjoint of an ODE": (
        {"schedule": {"epochs": 1, "adjoint": "phantom"}},
        "schedule.adjoint is for layers that solve for an equilibrium",
    ),
    "schedule without epochs": ({"schedule": {"loosen": 10.0}}, "needs config.schedule.epochs"),
    "loosened constant steps": (
        {"solver": {"controller": "constant", "dt0": 0.5}, "schedule": {"epochs": 1, "loosen": 9}},
        "schedule.loosen is for layers that solve to a tolerance; homoode does not",
    ),
    "unknown layer": ({"model": {"layer": "dqe"}}, "'dqe' is not one of .* Did you mean 'deq'?"),
    "a class twice": (
        {"data": {"dataset": "folder", "class_names": ["a", "b", "a"]}},
        "class_names must name each class once, got .'a', 'b', 'a'.",
    ),
    "many means": ({"data": {"mean": [0.1, 0.2]}}, "config.data.mean has 2 values"),
}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_config_file_is_valid_and_says_its_command(file):
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = from_dict(module.get_config().to_dict())
    assert config.data.dataset == file.stem.removesuffix("_small")
    assert f"python train.py --config=configs/{file.name}" in module.__doc__


@pytest.mark.wrong_types
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_refused_in_one_line(mistake):
    raw, message = MISTAKES[mistake]
    with pytest.raises(UserError, match=message) as caught:
        from_dict(raw)
    assert "\n" not in str(caught.value)


def test_a_configuration_survives_json():
    config = from_dict({"train": {"epochs": 3, "learning_rate": 1}, "data": {"mean": [0.1]}})
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config
    assert from_dict(defaults().to_dict()) == Config()


def test_differences_name_the_settings():
    changed = from_dict({"train": {"epochs": 3}, "data": {"data_dir": "x"}})
    assert differing_settings(changed, Config(), ("data.data_dir",)) == ["train.epochs: 3, not 30"]
