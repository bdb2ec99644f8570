"""What the README shows works as it stands there, and what the pages claim is in the records."""

import json
import operator
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
ANSWERS = re.split(r"(?m)^## ", (ROOT / "docs" / "results.md").read_text())[1:]
LAYERS = ("homoode", "neural_ode", "augmented_neural_ode", "deq")
# Figures of docs/results.md: record, where in it, and how the page writes it.
FIGURES = [
    *(("compare_layers_digits", f"rows/{one}/test_accuracy", ".4f") for one in (*LAYERS, "none")),
    *(("compare_layers_digits", f"rows/{one}/test_sd", ".4f") for one in (*LAYERS, "none")),
    *(("compare_layers_mnist", f"rows/{one}/test_accuracy", ".4f") for one in (*LAYERS, "none")),
    *(
        ("compare_layers_mnist", f"rows/{one}/stability/noise 0.1/accuracy", ".4f")
        for one in LAYERS
    ),
    ("compare_layers_mnist", "rows/deq/failed_solves", ",d"),
    ("compare_layers_mnist", "rows/homoode/nfe_forward", ".0f"),
    ("compare_layers_digits", "rows/homoode/nfe_forward", ".0f"),
    *(
        ("compare_layers_digits", f"rows/{one}/stability/noise 0.2/accuracy", ".4f")
        for one in LAYERS
    ),
    ("compare_layers_mnist", "rows/deq/stability/finer solver/accuracy", ".4f"),
    ("compare_layers_mnist", "rows/deq/stability/as trained/accuracy", ".4f"),
    *(
        ("compare_layers_cifar10-jpeg", f"rows/{one}/test_accuracy", ".4f")
        for one in ("homoode", "neural_ode", "deq")
    ),
    ("compare_layers_cifar10-jpeg", "rows/deq/failed_solves", ",d"),
    ("compare_layers_cifar10-jpeg", "rows/deq/test_by_epoch/0/6", ".4f"),
    ("first_steps", "rows/mnist, dopri5-learned-0/0.5/nfe", ".0f"),
    ("first_steps", "rows/mnist, dopri5-learned-0/selected/nfe", ".0f"),
    ("mnist", "summary/test_accuracy", ".4f"),
    ("mnist", "summary/nfe_forward", ".0f"),
    ("mnist_plain", "summary/test_accuracy", ".4f"),
    ("mnist_plain", "summary/nfe_forward", ".0f"),
    ("compare_initial_point_mnist", "rows/dopri5, learned/nfe_forward", ".1f"),
    ("compare_initial_point_mnist", "rows/dopri5, alternating/nfe_forward", ".1f"),
    ("compare_initial_point_mnist", "rows/dopri5, huber/nfe_forward", ".1f"),
    ("compare_initial_point_mnist", "rows/dopri5, huber/test_accuracy", ".4f"),
    ("compare_initial_point_mnist", "rows/dopri5, alternating/test_accuracy", ".4f"),
    ("compare_initial_point_digits", "rows/dopri5, learned/nfe_forward", ".1f"),
    ("compare_initial_point_digits", "rows/dopri5, alternating/nfe_forward", ".1f"),
    ("memory", "mib/homoode, backsolve/0", ".2f"),
    ("memory", "mib/homoode, backsolve/3", ".2f"),
    ("memory", "mib/homoode, checkpointed/3", ".2f"),
    *(("accuracy", f"gradients/{place}/relative_error", ".1e") for place in range(4)),
    ("speed", "cases/infer 64/ratio", ".2f"),
    ("speed", "cases/train backsolve/ratio", ".2f"),
    ("speed", "cases/train checkpointed/ratio", ".2f"),
    *(("speed", f"deq/rows/{mode}/ratio", ".2f") for mode in ("joint", "per_example")),
    *(
        ("speed", f"equilibria/rows/{row}/ratio", ".2f")
        for row in (
            "anderson 5, joint",
            "picard, joint",
            "broyden, joint",
            "gmres, of vjps",
            "gmres, of vjps, per_example",
            "5 stored states @ 1",
        )
    ),
    *(
        ("robust_cpu", f"rows/mnist, {row}/{key}", form)
        for row in ("anderson", "robust", "anderson, jacobian", "robust, jacobian")
        for key, form in (("failed", ",d"), ("test_accuracy", ".4f"), ("seconds", ".0f"))
    ),
    *(
        ("robust_cpu_cifar10", f"rows/cifar10_small, {row}/{key}", form)
        for row in ("anderson", "robust")
        for key, form in (("failed", ",d"), ("test_accuracy", ".4f"), ("seconds", ".0f"))
    ),
    ("audits", "homoode/trained/speed_at_start/median", ".2f"),
    ("audits", "homoode/trained/speed_at_end/median", ".2f"),
    *(
        ("audits", f"homoode/{field}/explained/held_out_after", ".3f")
        for field in ("trained", "untrained", "straight")
    ),
    ("audits", "augmented_neural_ode/augmented/own_head", ".4f"),
    ("audits", "augmented_neural_ode/x/own_head", ".4f"),
    ("kills", "kills", "d"),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_exists(page):
    text = page.read_text()
    for name in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (page.parent / name).exists(), name
    for target in re.findall(r"make ([a-z-]+)(?=`|\n| #)", text):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_files_of_the_house_are_where_the_plan_says(page):
    text = (ROOT / page).read_text()
    for name in re.findall(r"`([a-z_]+/[a-z_/]+(?:\.py|/))`", text):
        places = [ROOT / name, ROOT / "homoode_jax" / name]
        places.append(ROOT / "homoode_jax" / "mathematics" / name)
        assert any(place.exists() for place in places), name


def record(name):
    """Returns what a file under results/ holds."""
    return json.loads((ROOT / "results" / f"{name}.json").read_text())


def answers_from(name):
    """Returns the sections of docs/results.md that cite a record."""
    return [answer for answer in ANSWERS if f"../results/{name}.json)" in answer]


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: f"{figure[0]} {figure[1]}")
def test_a_figure_of_the_results_is_the_one_in_its_record(figure):
    name, path, form = figure
    value = record(name)
    for key in path.split("/"):
        value = value[int(key) if isinstance(value, list) else key]
    written = re.compile(rf"(?<![\d.]){re.escape(format(value, form))}(?!\d|\.\d)")
    assert any(written.search(answer) for answer in answers_from(name)), format(value, form)


def rows_of(text):
    """Returns the cells of a text's tables, by their first cell up to a comma."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return {cells[0].partition(",")[0]: cells[1:] for cells in rows}


@pytest.mark.parametrize("layer", ["HomoODE", "Neural ODE", "DEQ", "no such layer"])
def test_the_table_of_the_readme_is_that_of_the_results(layer):
    ours = rows_of((ROOT / "README.md").read_text())[layer]
    assert ours[:3] == rows_of(ANSWERS[0])[layer]


def test_solvers_solve_as_many_systems_as_the_results_say():
    problems = record("nonlinear")["problems"].values()
    (answer,) = answers_from("nonlinear")
    for solver in ("robust", "newton", "arclength newton", "anderson", "picard"):
        runs = [run for one in problems for run in one["solvers"][solver].values()]
        assert re.search(rf"\b{sum(run['solved'] for run in runs)}\b", answer), solver
        assert f"Of {len(runs)} runs" in answer
    assert record("kills")["same bits"]


def test_solvers_find_as_many_cells_as_the_results_say():
    entries = [cells for row in record("map")["rows"].values() for cells in row["radii"].values()]
    (answer,) = answers_from("map")
    for solver in ("robust", "anderson", "broyden", "newton"):
        assert f"{sum(cells[solver]['solved'] for cells in entries):,}" in answer, solver
        assert not any(cells[solver]["false"] for cells in entries)
    assert f"Of {sum(cells['cells'] for cells in entries):,} random cells" in answer
    costs = (sum(c[s]["easy_cost"] for c in entries) for s in ("robust", "anderson"))
    ratio = operator.truediv(*costs)
    assert f"costs {ratio:.2f} as much" in answer


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: answer.splitlines()[0])
def test_an_answer_names_its_records_and_their_commits(answer):
    if answer.startswith("What was not measured"):
        return
    cited = re.findall(r"\]\(\.\./results/([^)]+)\.json\)\s\(([0-9a-f]{7})\)", answer)
    assert len(cited) == answer.count(".json)") > 0
    for name, commit in cited:
        found = record(name)
        assert found.get("environment", found)["commit"].startswith(commit), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_link_to_a_part_of_a_page_leads_to_it(page):
    for name, part in re.findall(r"\]\((?!http)([^)#]*)#([^)]+)\)", page.read_text()):
        text = (page.parent / name if name else page).read_text()
        heads = re.findall(r"(?m)^#+ (.*)$", text)
        slugs = {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}
        assert part in slugs, (name, part)


def test_tables_of_the_notes_are_those_of_the_records():
    text = (ROOT / "docs" / "notes.md").read_text()
    tables = re.findall(r"<!-- (\w+) ([\w-]+)[\w ]* -->\n\n((?:\|.*\n)+)", text)
    found = [ROOT / "results" / f"compare_{study}_{data}.md" for study, data, _ in tables]
    assert sum(file.exists() for file in found) >= 13
    for file, (study, data, table) in zip(found, tables, strict=True):
        if file.exists():
            lines = file.read_text().splitlines()
            assert all(line in lines for line in table.splitlines()), (study, data)
