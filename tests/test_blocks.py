"""The code that the pages show runs as it stands there, and the commands that they name exist."""

import functools
import importlib.util
import itertools
import re
import shlex

import numpy as np
import pytest

from homoode_jax.experiments import command
from tests.test_readme import PAGES, ROOT

FUNCTIONS = ROOT / "docs" / "functions.md"
LAYERS = ROOT / "docs" / "layers.md"
# The layers of three frameworks take a minute to compile.
WITH_CODE = [
    pytest.param(page, marks=pytest.mark.slow) if page == LAYERS else page for page in PAGES
]
WITH_COMMANDS = [*PAGES, *(ROOT / "results").glob("*.md"), *(ROOT / "benchmarks").rglob("*.md")]
# Blocks of other languages are drawings; a new language is added here, and to the tests.
LANGUAGES = {"python", "console", "bash", "bibtex", ""}
MAKEFILE = (ROOT / "Makefile").read_text()
END_OF_COMMAND = ";&|\n"
NOT_OURS = {"cd", "export", "git", "pip", ".venv/bin/pip", "pre-commit"}


def blocks(page):
    """Yields language and content of the code blocks of a page."""
    return re.findall(r"^```(\S*)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


@functools.cache
def run_python(page):
    """Returns what is defined after each python block of a page; each sees those before it."""
    names = {}
    after = []
    for language, code in blocks(page):
        if language == "python":
            exec(compile(code, page.name, "exec"), names)
            after.append(dict(names))
    return after


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.name)
def test_the_code_of_a_page_runs(page):
    assert {language for language, _ in blocks(page)} <= LANGUAGES
    run_python(page)


@pytest.mark.slow
def test_functions_in_a_few_lines_are_right():
    integrate, homotopy = run_python(FUNCTIONS)
    # The gradient along one direction, by finite differences of the loss.
    params = integrate["params"]
    step = 1e-2
    up, down = ({"w": params["w"] + sign * step} for sign in (1, -1))
    numeric = (integrate["loss"](up) - integrate["loss"](down)) / (2 * step)
    np.testing.assert_allclose(np.sum(integrate["gradient"]["w"]), numeric, rtol=2e-2)
    path = homotopy["by_path"]
    iteration = homotopy["by_iteration"]
    assert path.success and iteration.success
    np.testing.assert_allclose(path.z, iteration.z, atol=1e-4)
    assert np.all(np.isfinite(homotopy["gradient"]["w"]))


@pytest.mark.slow
def test_layers_in_a_few_lines_train():
    nnx, others = run_python(LAYERS)
    before = np.mean(np.square(nnx["y"]))
    assert nnx["loss"] < before / 4 and nnx["deq"].failed[...] == 0
    assert nnx["solution"].success and np.all(others["solution"].success)


def typed(block):
    """Yields what is typed at the prompts of a console block, without what is printed."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        lines = part.splitlines()
        beginnings = ("\n".join(lines[:end]) for end in range(1, len(lines) + 1))
        yield next(filter(is_whole, beginnings))


def is_whole(text):
    """Returns False while the shell would wait for another line."""
    try:
        shlex.split(text)
    except ValueError:  # an open quote, or a backslash at the end
        return False
    return True


def simple_commands(text):
    """Yields the words of each command that a shell would find in a text."""
    text = re.sub(r"^\s*#.*$", "", text.replace("\\\n", " "), flags=re.MULTILINE)
    lexer = shlex.shlex(text, posix=True, punctuation_chars=END_OF_COMMAND)
    lexer.whitespace = " \t"
    lexer.whitespace_split = True
    lexer.commenters = ""
    for ends, words in itertools.groupby(lexer, key=lambda word: set(word) <= set(END_OF_COMMAND)):
        if not ends:
            yield list(words)


def commands(page):
    """Yields the texts of a page that are typed into a shell, in blocks or in a line."""
    for language, block in blocks(page):
        if language == "console":
            yield from typed(block)
        if language == "bash":
            yield block
    yield from re.findall(r"(?<!`)`((?:make|\S*python3?) [^`]+)`(?!`)", page.read_text())


def check(words):
    """Raises if a command is not known, or does not know what it is given."""
    program, *rest = itertools.dropwhile(re.compile(r"[A-Z_]+=").match, words)
    if program == "srun":
        check(rest)
    elif program == "gcloud":
        check_all(word.partition("=")[2] for word in rest if word.startswith("--command="))
    elif program == "make":
        check_make(rest)
    elif program == "homoode" and rest[0] in command.OF_FILES:
        assert not any(word.startswith("--") for word in rest), rest
    elif program == "homoode":
        command.parse([program, *rest])
    elif re.fullmatch(r"(\.venv/bin/)?python3?", program):
        check_python(*rest)
    else:
        assert program in NOT_OURS, program


def check_all(texts):
    """Checks every command of some texts."""
    for words in itertools.chain.from_iterable(map(simple_commands, texts)):
        check(words)


def check_make(words):
    """Looks for targets and variables in the Makefile."""
    for word in words:
        name, is_variable, _ = word.partition("=")
        known = rf"\$\({name}\)" if is_variable else rf"^{name}:"
        assert re.search(known, MAKEFILE, re.MULTILINE), f"make {word}"


def check_python(what, *rest):
    """Looks for the module; has the program's own parser read the flags of `train.py`."""
    if what == "train.py":
        command.parse([str(ROOT / what), *rest])
        return
    assert what == "-m", what
    module, *arguments = rest
    assert importlib.util.find_spec(module), module
    for argument in arguments:
        assert not argument.startswith("tests/") or (ROOT / argument).exists(), argument


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page_are_known(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    check_all(commands(page))


@pytest.mark.parametrize(
    "text",
    [
        "make tset",
        "make compare SEED=1",
        "python train.py --confg=digits",
        "python train.py --config=configs/mnist.py --config.train.epoch=3",
        "python train.py --config=nothing.py",
        "cd homoode && .venv/bin/python -m benchmarks.nothing",
        "srun python train.py --workdr=runs",
        "python train.py \\\n  --workdir=runs\n--mode=evaluate",
        'gcloud ssh --command="cd homoode &&\n  make trian"',
        "python -m pytest tests/nothing",
        "homoode tran",
        "homoode train --workdr=runs",
        "homoode compare --workdir=runs",
        "keras train",
    ],
)
def test_an_unknown_command_is_found(text):
    with pytest.raises((AssertionError, ModuleNotFoundError, command.UserError)):
        check_all([text])
