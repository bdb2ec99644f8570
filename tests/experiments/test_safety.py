"""What is loaded is never run, and nothing is fetched that was not asked for."""

import json
import pickle
import socket

import numpy as np
import pytest

from tests.experiments.runs import PLAIN, command, small_config


class Trap:
    """An object that makes a file when it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return open, (str(self.file), "w")


@pytest.fixture
def offline(monkeypatch):
    """Refuses every connection."""

    def refuse(*where):
        raise AssertionError(f"connection to {where[1:]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)


def test_a_run_needs_no_network(offline, tmp_path):
    assert command(*PLAIN, "--config.train.epochs=1", f"--workdir={tmp_path / 'run'}") == 0


@pytest.mark.parametrize("dataset", ["mnist", "svhn", "cifar10", "cifar100", "fashion_mnist"])
def test_data_that_is_not_there_is_not_fetched(dataset, offline, tmp_path, capsys):
    flags = [f"--config.data.dataset={dataset}", f"--config.data.data_dir={tmp_path}"]
    assert command(*flags, "--config.data.validation=0") == 2
    assert f"make data DATASET={dataset}" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_pickles_in_what_a_run_left_are_refused(tmp_path, capsys):
    """In the batch of a failure, which is the only file that NumPy could unpickle."""
    failure = tmp_path / "failure"
    sprung = tmp_path / "sprung"
    failure.mkdir()
    from homoode_jax.experiments.config import to_dict

    (tmp_path / "config.json").write_text(json.dumps(to_dict(small_config())))
    (failure / "facts.json").write_text('{"step": 1, "early_steps": 0, "total_steps": 40}')
    trap = np.empty(1, object)
    trap[0] = Trap(sprung)
    np.savez(failure / "batch.npz", images=trap, labels=trap, mask=trap, allow_pickle=True)
    pickle.loads(pickle.dumps(Trap(sprung))).close()  # what must not happen
    sprung.unlink()
    assert command("--mode=replay", f"--workdir={tmp_path}") == 2
    err = capsys.readouterr().err
    assert "allow_pickle=False" in err and err.count("\n") == 1 and not sprung.exists()


def test_a_stored_configuration_is_data(tmp_path, capsys):
    trick = '{"model": {"layer": "__import__(\'os\').system(\'touch sprung\')"}}'
    (tmp_path / "config.json").write_text(trick)
    assert command("--mode=evaluate", f"--workdir={tmp_path}") == 2
    assert "is not one of homoode" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["config.json"]
