"""The site's own code: its picture of the idea, and where its links lead."""

import importlib.util
import sys
import types

from tests.test_readme import ROOT


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_of_the_idea_shows_what_its_page_says(tmp_path, capsys):
    load(ROOT / "docs" / "images" / "idea.py").main(tmp_path / "idea.png")
    homotopy, arclength, natural = capsys.readouterr().out.splitlines()
    assert homotopy.startswith("homotopy: z = 1.5568, ok") and "iteration: z = 1.55" in homotopy
    assert arclength.endswith("lam = 1.000, ok") and natural.endswith(", fold")
    assert (tmp_path / "idea.png").read_bytes().startswith(b"\x89PNG")


def test_links_that_leave_the_pages_lead_to_files_of_the_site(monkeypatch):
    stub = types.ModuleType("mkdocs.structure.files")
    stub.File = object  # pyright: ignore
    monkeypatch.setitem(sys.modules, "mkdocs", types.ModuleType("mkdocs"))
    monkeypatch.setitem(sys.modules, "mkdocs.structure", types.ModuleType("mkdocs.structure"))
    monkeypatch.setitem(sys.modules, "mkdocs.structure.files", stub)
    hooks = load(ROOT / "docs" / "hooks.py")
    assert hooks._in_checkout("../results/map.json", "results.md") == "results/map.json"
    assert hooks._in_checkout("docs/cloud.md", "readme.md") == "docs/cloud.md"
    assert hooks._in_checkout("map.json", "files/results/map.md") == "results/map.json"
    assert hooks._place("results/map.json") == "files/results/map.json"
    assert hooks._place("README.md") == "readme.md"
    assert hooks._place("docs/cloud.md") is None


def test_a_link_that_leads_nowhere_is_found(tmp_path):
    check = load(ROOT / "docs" / "check.py")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "index.html").write_text('<h1 id="here">x</h1>')
    (tmp_path / "index.html").write_text(
        '<a href="sub/#here">a</a><a href="sub/#gone">b</a><img src="no.png"><a href="https://x">'
    )
    pages = {page.resolve(): check.Links(page.read_text()) for page in tmp_path.rglob("*.html")}
    assert list(check.broken(tmp_path.resolve(), pages)) == [
        "index.html: sub/#gone has no such part",
        "index.html: no.png leads nowhere",
    ]
