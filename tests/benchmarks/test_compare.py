"""The comparison: what its table says of runs, how models are solved otherwise, bad input."""

import numpy as np
import pytest

from benchmarks.compare import run
from benchmarks.compare.measure import NOISE, add_noise, spread, variants
from benchmarks.compare.study import CASES, RunResult, read_study
from benchmarks.compare.table import (
    corruption,
    corruption_table,
    epochs_table,
    main_table,
    spikes,
    stability,
    stability_table,
    summarise,
    time_table,
)
from benchmarks.shared import run_main
from homoode_jax.experiments.config import from_dict
from homoode_jax.experiments.dataset import make_split
from homoode_jax.experiments.files import read_json
from homoode_jax.experiments.workdir import write_json
from homoode_jax.networks.family import LAYERS


def finished(
    accuracy: float, losses: list[float | None], residual: float | None, each_epoch: bool = False
) -> RunResult:
    """A run that trained for as many epochs as it has losses."""
    rows = [
        {
            "train_loss": loss,
            "nfe_forward": 10.0 + i,
            "nfe_backward": 5.0,
            "failed": i,
            "test_accuracy": accuracy if each_epoch else None,
            "seconds": 10.0 * (i + 1),
            "validation_accuracy": None if each_epoch else accuracy + 0.01 * i,
        }
        for i, loss in enumerate(losses)
    ]
    summary = {
        "parameters": 34154,
        "validation_accuracy": accuracy,
        "test_accuracy": accuracy,
        "nfe_forward": 9.0,
        "residual": residual,
        "seconds": 60.0,
    }
    stands = {
        "as trained": {"accuracy": accuracy, "nfe": 9.0, "failed": 0},
        **{f"noise {sd:g}": {"accuracy": accuracy - sd, "nfe": 9.0, "failed": 1} for sd in NOISE},
    }
    measured = {"stands": stands, "step_ms": 50.0, "program_mib": 7.0}
    return RunResult(summary, rows, measured, {"commit": "0123456789", "processor": "Z80"})


def test_spikes_are_jumps_above_the_least_loss_and_epochs_without_one():
    assert spikes([2.0, 1.0, 0.5, 0.4]) == 0
    assert spikes([2.0, 1.0, 1.9, 2.1, 0.5, 1.1, None]) == 3


def test_a_row_is_the_means_over_seeds():
    runs = [finished(0.98, [2.0, 1.0], None), finished(0.99, [2.0, 5.0], None)]
    row = summarise(runs)
    assert row["test_accuracy"] == pytest.approx(0.985)
    assert row["test_sd"] == pytest.approx(0.01 / np.sqrt(2))
    assert row["nfe_forward"] == 11 and row["nfe_growth"] == pytest.approx(1.1)
    assert row["failed_solves"] == 2 and row["loss_spikes"] == 1 and row["residual"] is None
    assert stability(runs)["noise 0.1"]["accuracy"] == pytest.approx(0.885)
    line = main_table({"deq": row}).splitlines()[2]
    assert line.startswith("| deq | 34,154 | 0.9850 | 0.9850 ± 0.0071 | 11.0 | 5.0 | – | 50 | 7 |")


def test_one_seed_has_no_standard_deviation():
    row = summarise([finished(0.98, [2.0], 4e-4)])
    assert "0.9800 ± –" in main_table({"deq": row})
    assert "| 4e-04 |" in main_table({"deq": row})


def test_ways_to_solve_that_a_layer_does_not_have_are_dashes():
    ode = finished(0.98, [2.0], None)
    ode.measured["stands"]["finer solver"] = {"accuracy": 0.97, "nfe": 30.0, "failed": 0}
    rows = {
        name: {"stability": stability([one])}
        for name, one in {"homoode": ode, "none": finished(0.9, [1.0], None)}.items()
    }
    table = stability_table(rows).splitlines()
    assert table[0].count("|") == table[2].count("|") == table[3].count("|") == 7
    assert table[3].endswith("| – |") and table[2].endswith("| 0.9700 |")


def test_accuracy_by_epoch_is_a_table_where_it_was_taken():
    taken = summarise([finished(accuracy, [2.0, 1.0], None, True) for accuracy in (0.9, 0.8)])
    table = epochs_table({"deq": taken, "none": summarise([finished(0.9, [1.0], None)])})
    assert table == "| epoch | 1 | 2 |\n| :-- | --: | --: |\n| deq | 0.8500 | 0.8500 |\n"
    assert epochs_table({"none": summarise([finished(0.9, [1.0], None)])}) == ""


def test_time_to_accuracy_is_that_to_what_every_run_reached():
    fast, slow = finished(0.93, [1.0] * 3, None), finished(0.91, [1.0] * 3, None)  # 0.95, 0.93
    rows = {"deq": summarise([fast]), "none": summarise([slow, fast])}
    lines = time_table(rows).splitlines()
    assert lines[0] == "| to 0.9300 | epochs | seconds |"
    assert lines[2:] == ["| deq | 1.0 | 10 |", "| none | 2.0 | 35 |"]
    assert time_table({"deq": summarise([finished(0.9, [1.0], None, True)])}) == ""


def test_corruptions_are_a_table_where_they_were_taken():
    worse = finished(0.9, [1.0], None)
    worse.measured["withstands"] = {"blur": 0.5, "JPEG": 0.7}
    rows = {"deq": corruption([worse, worse]), "none": corruption([finished(0.9, [1.0], None)])}
    table = corruption_table(rows)
    assert table.splitlines()[0] == "|  | blur | JPEG | mean |"
    assert table.splitlines()[2:] == ["| deq | 0.500 | 0.700 | 0.600 |"]
    assert corruption_table({"none": rows["none"]}) == ""


@pytest.mark.slow
def test_a_record_keeps_the_rows_of_other_cases_under_the_same_conditions(
    monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(run, "RESULTS", tmp_path)
    monkeypatch.setattr(run, "IMAGES", tmp_path)

    def rows_after(case: str, accuracy: float, **variables: str) -> dict[str, float]:
        for name in ("DATASET", "ONLY", "FLAGS", "DATA_DIR"):
            monkeypatch.delenv(name, raising=False)
        for name, value in {"SEEDS": "1", **variables}.items():
            monkeypatch.setenv(name, value)
        study = read_study("layers")
        runs = {case: [finished(accuracy, [1.0], None)]}
        record = read_json(run.write(study, runs, {"commit": "0123456789"}))
        return {case: row["test_accuracy"] for case, row in record["rows"].items()}

    assert rows_after("deq", 0.8) == {"deq": 0.8}
    assert list(rows_after("homoode", 0.9)) == ["homoode", "deq"]
    assert rows_after("deq", 0.7) == {"homoode": 0.9, "deq": 0.7}
    text = (tmp_path / "compare_layers_digits.md").read_text()
    told = read_json(tmp_path / "compare_layers_digits.json")["command"]
    assert told == "SEEDS='1' ONLY='homoode;deq' make compare STUDY=layers" and told in text
    assert "trained by 0123456 on Z80" in text and "| homoode |" in text
    record = tmp_path / "compare_layers_digits.json"
    older = read_json(record)
    del older["rows"]["deq"]["trained_by"]
    write_json(record, older)
    assert rows_after("none", 0.6) == {"homoode": 0.9, "none": 0.6}
    assert "being of an older form: deq" in capsys.readouterr().out
    assert rows_after("none", 0.6, FLAGS="--config.train.epochs=1") == {"none": 0.6}


@pytest.mark.parametrize("layer", LAYERS)
def test_variants_are_valid_and_change_the_solve_alone(layer):
    config = from_dict({"model": {"layer": layer}})
    found = variants(config)
    assert bool(found) == (layer not in ("none", "resnet", "euler"))
    for other in found.values():
        assert other != config
        assert (other.model, other.data, other.train) == (config.model, config.data, config.train)


def test_noise_keeps_images_and_has_the_size_asked_for():
    split = make_split(np.full((50, 8, 8, 1), 128, np.uint8), np.zeros(50, int))
    noisy = add_noise(split, 0.1)
    assert noisy.images.dtype == np.uint8
    assert np.std(noisy.images.astype(float)) == pytest.approx(25.5, rel=0.05)
    np.testing.assert_array_equal(add_noise(split, 0.1).images, noisy.images)


def test_spread_images_are_of_all_classes_and_not_too_many():
    labels = np.repeat(np.arange(10), 1001)
    some = spread(make_split(np.zeros((10010, 2, 2, 1), np.uint8), labels), 2000)
    assert len(some.labels) == len(some.images) == 1669  # every sixth
    assert set(np.bincount(some.labels)) == {166, 167}
    assert len(spread(some, 2000).labels) == 1669


@pytest.mark.parametrize(
    ("variables", "study", "message"),
    [
        (
            {"DATASET": "minst"},
            "layers",
            "DATASET='minst' has no file in configs/; there are cifar",
        ),
        ({"SEEDS": "0"}, "layers", "SEEDS='0' must be the number of seeds"),
        ({"ONLY": "deq; dq"}, "layers", "ONLY: 'dq' is not one of homoode; neural_ode"),
        ({}, "layer", "study 'layer' is not one of layers, initial_point, ev"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(variables, study, message, monkeypatch, capsys):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert run_main(run.main, run.STUDY, arguments=[study]) == 2
    told = capsys.readouterr()
    assert message in told.err and told.err.count("\n") == 1


@pytest.mark.parametrize("name", CASES)
def test_each_run_has_a_folder_of_its_own(name, monkeypatch):
    for variable in ("DATASET", "SEEDS", "ONLY", "FLAGS"):
        monkeypatch.delenv(variable, raising=False)
    study = read_study(name)
    folders = {study.workdir(case, seed) for case in CASES[name] for seed in range(study.seeds)}
    assert len(folders) == len(CASES[name]) * 3
    assert not any(" " in str(folder.name) for folder in folders)


def test_only_takes_some_cases(monkeypatch):
    monkeypatch.setenv("ONLY", "deq; none")
    assert list(read_study("layers").cases) == ["deq", "none"]


def test_a_case_of_two_studies_is_one_case():
    flags: dict[str, set] = {}
    for cases in CASES.values():
        for case, given in cases.items():
            flags.setdefault(case, set()).add(given)
    assert all(len(given) == 1 for given in flags.values())
    assert len(flags) < sum(map(len, CASES.values()))
