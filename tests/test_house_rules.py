"""The house rules of CONTRIBUTING.md as tests: each names the file and line that breaks a rule."""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

import limner
from limner.commands.app import VERBS
from limner.contract.registry import models
from limner.data.png import read_settings

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "limner"
FILES = sorted(SOURCE.rglob("*.py"))
LONGEST_FILE = 450

LAYERS = (
    ("contract",),
    ("runtime",),
    ("nn",),
    ("maths",),
    ("data",),
    ("autoregressive", "autoencoders", "gans", "flows", "diffusion"),
    ("evaluate",),
    ("training",),
    ("testing",),
    ("commands",),
    ("studio",),
)
"""Layers of packages: one imports only from layers below its own, and no family from another."""
LAYER = {package: i for i, packages in enumerate(LAYERS) for package in packages}
STARTED_LATE = {("commands", "studio")}  # imported inside the command that starts it
MOST_ENTRIES = 18


def name_of(file: Path) -> str:
    """Return the module name of a file, for example `limner.nn.unet`."""
    parts = file.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def imports(module: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and name of every import, except those for type checkers only."""
    skipped = {
        id(inner)
        for node in ast.walk(module)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    for node in ast.walk(module):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, "imports are absolute"
            for alias in node.names:
                home = limner._HOME_OF.get(alias.name) if node.module == "limner" else None
                yield node.lineno, f"{'.'.join(filter(None, (node.module, home)))}.{alias.name}"


def package_of(name: str) -> str:
    """Return `nn` for `limner.nn.unet.UNet`, or "" for other packages and for limner itself."""
    parts = name.split(".")
    if parts[0] != "limner" or len(parts) < 2:
        return ""
    return parts[1] if (SOURCE / parts[1]).is_dir() else ""


def wrong_imports(name: str, module: ast.Module) -> list[str]:
    """Return the imports of a module that point up or to another package of the same layer."""
    own_package = package_of(name)
    problems = []
    for line, target in imports(module):
        other = package_of(target)
        if (
            not own_package
            or not other
            or own_package == other
            or (own_package, other) in STARTED_LATE
        ):
            continue
        if LAYER[other] >= LAYER[own_package]:
            problems.append(f"{name}:{line} imports {target}, which is not below it")
    return problems


def test_imports_point_down():
    problems = [line for file in FILES for line in wrong_imports(name_of(file), tree(file))]
    assert not problems, "\n".join(problems)


def test_there_are_few_packages_and_each_has_a_layer():
    entries = {p.name for p in SOURCE.iterdir() if p.name not in ("py.typed", "__pycache__")}
    assert len(entries) <= MOST_ENTRIES, sorted(entries)
    assert entries - {"__init__.py", "__main__.py", "zoo"} == {*LAYER}


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("limner.contract.image", "from limner.nn.unet import UNet"),
        ("limner.nn.unet", "import limner.diffusion.ddpm"),
        ("limner.nn.unet", "from limner import training"),
        ("limner.diffusion.ddpm", "from limner.training.loop import Loop"),
        ("limner.diffusion.ddpm", "from limner.flows.realnvp import RealNVP"),
        # A model must not use the networks that evaluate it.
        ("limner.gans.gan", "from limner.evaluate.extractors.lite0 import Lite0"),
        ("limner.diffusion.ddpm", "def f():\n    from limner.gans import gan"),
        ("limner.training.loop", "from limner.commands.app import app"),
    ],
)
def test_a_wrong_import_is_found(name: str, code: str):
    assert wrong_imports(name, ast.parse(code))


@pytest.mark.parametrize(
    ("guide", "place"),
    [
        ("new_paper.py", "limner.flows.nice"),
        ("new_metric.py", "limner.evaluate.metrics.vendi"),
        ("new_sampler.py", "limner.maths.samplers.ralston"),
    ],
)
def test_an_example_keeps_the_rules_where_it_is_copied_to(guide: str, place: str):
    file = ROOT / "examples" / guide
    assert not wrong_imports(place, tree(file))
    assert not matches("|".join(BANNED.values()), [file])


BANNED = {
    "pickle": r"\b(c?[Pp]ickle|dill|cloudpickle|joblib|shelve|marshal)\b",
    "torch.load": r"(?<!safetensors\.)\btorch\.(load|save|hub|jit\.load|package)\b",
    "allow_pickle": r"\ballow_pickle\b",
    "distributed checkpoints": r"\bdistributed\.checkpoint\b|\bdcp\.load\b",
    "yaml.load": r"\byaml\.(unsafe_|full_)?load\b",
    "eval": r"(?<![\w.])eval\(",
    "exec": r"(?<![\w.])exec\(",
    "__import__": r"\b__import__\(",
    "shell": r"\bshell\s*=\s*True\b|\bos\.system\(",
    "annotations as text": r"from __future__ import annotations",
    "unfinished": r"\b(TODO|FIXME|XXX|HACK)\b|\bfor now\b|\bNotImplementedError\b",
    "an article before a name": r"\b[Aa]n? \{[\w.]+[}:!]",  # a vae, but an edm, an sr3, an nvae
    "absolute local paths": r"(?<![\w.<])/(tmp|work|home|root|Users)/",
}

# Foreign weights are read in a process of its own.
CONVERTER = SOURCE / "evaluate" / "extractors" / "convert.py"


@pytest.mark.parametrize("rule", BANNED)
def test_the_source_has_no_banned_words(rule: str):
    files = [*FILES, *sorted((ROOT / "examples").glob("*.py"))]
    if rule == "torch.load":
        files.remove(CONVERTER)
    assert not (lines := matches(BANNED[rule], files)), "\n".join(lines)


ARCHAIC = r"\b([Ww]hoever|[Ss]omebody|[Hh]ardly)\b|, for (it|they|there) |\breads? FD\b"
"""Words that limner avoids; CONTRIBUTING describes its language."""


def test_texts_use_plain_words():
    texts = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    texts += [*(ROOT / "recipes").rglob("*.toml"), *(SOURCE / "zoo").rglob("README.md")]
    assert not (lines := matches(ARCHAIC, [*FILES, *texts])), "\n".join(lines)
    for line in ("It hardly helps.", "small, for it learnt little", "the model reads FD 39"):
        assert re.search(ARCHAIC, line)
    for line in ("an option for it", "It reads files."):
        assert not re.search(ARCHAIC, line)


def test_the_converter_reads_only_tensors_and_is_imported_nowhere():
    assert len(lines := matches(BANNED["torch.load"], [CONVERTER])) == 1
    assert "weights_only=True" in lines[0]
    assert not [f for f in FILES for _, name in imports(tree(f)) if "extractors.convert" in name]


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        ("pickle", "import pickle"),
        ("pickle", "from pickle import loads"),
        ("torch.load", "x = torch.load(path)"),
        ("torch.load", "torch.save(x, path)"),
        ("allow_pickle", "np.load(f, allow_pickle=True)"),
        ("distributed checkpoints", "import torch.distributed.checkpoint as dcp"),
        ("yaml.load", "yaml.load(text)"),
        ("eval", "eval(text)"),
        ("exec", "    exec(code)"),
        ("__import__", "__import__(name)"),
        ("shell", "subprocess.run(x, shell=True)"),
        ("annotations as text", "from __future__ import annotations"),
        ("unfinished", "# TODO: later"),
        ("unfinished", "raise NotImplementedError"),
        ("an article before a name", 'f"a {model.name} model has no codes"'),
        ("absolute local paths", 'open("/tmp/x")'),
    ],
)
def test_banned_words_are_found(rule: str, line: str):
    assert re.search(BANNED[rule], line)
    for harmless in ("model.eval()", "self.evaluate(x)", "executor.submit", "https://a.org/tmp.x"):
        assert not re.search(BANNED[rule], harmless)


def matches(pattern: str, files: list[Path]) -> list[str]:
    return [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in files
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(pattern, line)
    ]


def test_modules_are_imported_by_name_only_from_the_librarys_own_lists():
    """A name from a file is never imported: import_module is used in three places, and only the
    file that a user passes to the checker is run."""
    lists = (
        SOURCE / "__init__.py",
        SOURCE / "contract" / "registry.py",
        SOURCE / "commands" / "app.py",
    )
    checker = SOURCE / "testing" / "__main__.py"
    files = [f for f in FILES if f not in (*lists, checker)]
    lines = matches(r"\b(import_module|module_from_spec|exec_module|pkgutil|runpy)\b", files)
    assert not lines, "\n".join(lines)
    for file in lists:
        for line in matches(r"import_module\(", [file]):
            assert re.search(r'import_module\(f"limner\.(commands\.)?\{', line), line


def numbers(file: Path) -> Iterator[tuple[int, Any]]:
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            yield node.lineno, node.value


def test_the_range_of_pixels_is_in_one_file():
    places = [
        f"{file.relative_to(ROOT)}:{line}"
        for file in FILES
        if file != SOURCE / "contract" / "image.py"
        for line, value in numbers(file)
        if value == 127.5
    ]
    assert not places, places
    assert any(value == 127.5 for _, value in numbers(SOURCE / "contract" / "image.py"))


def test_no_family_assumes_the_number_of_levels_of_a_pixel():
    """A network may be 256 wide: only numbers that scale, compare or clamp count."""
    places = []
    for family in LAYERS[LAYER["diffusion"]]:
        for file in sorted((SOURCE / family).rglob("*.py")):
            for node in ast.walk(tree(file)):
                inner: list[ast.AST] = []
                if isinstance(node, ast.BinOp):
                    inner = [node.left, node.right]
                elif isinstance(node, ast.Compare):
                    inner = [node.left, *node.comparators]
                elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                    clamps = node.func.attr.startswith(("clamp", "clip", "mul", "div"))
                    inner = [*node.args, *(k.value for k in node.keywords)] if clamps else []
                places += [
                    f"{file.relative_to(ROOT)}:{n.lineno}"
                    for n in inner
                    if isinstance(n, ast.Constant) and n.value in (255, 256, 255.0, 256.0)
                ]
            places += [
                f"{file.relative_to(ROOT)}:{line}" for line, value in numbers(file) if value == 255
            ]
    assert not places, places


def test_every_model_cites_a_paper_and_has_a_summary():
    for name, entry in models().items():
        if name.startswith("toy-"):
            continue
        if entry.paper.arxiv:
            assert re.fullmatch(r"\d{4}\.\d{4,5}", entry.paper.arxiv), (
                f"{name}: {entry.paper.arxiv}"
            )
            year = 2000 + int(entry.paper.arxiv[:2])
            assert -1 <= entry.paper.year - year <= 3, f"{name}: {entry.paper}"
        else:
            assert re.fullmatch(r"10\.\d{4,}/\S+", entry.paper.doi), f"{name}: {entry.paper.doi}"
        assert entry.paper.title, name
        assert entry.paper.authors, name
        assert re.fullmatch(r"[a-z0-9]+([-+.][a-z0-9]+)*", name), (
            f"{name} is not a valid model name"
        )
        assert entry.summary, f"{name} has no docstring"
        assert len(entry.summary) <= 100, (
            f"{name}: the first line of its docstring is too long for `limner models`"
        )
        source = Path(sys.modules[entry.model.__module__].__file__ or "")
        assert (entry.paper.arxiv or entry.paper.doi) in source.read_text(encoding="utf-8")
        homes = {entry.family} | (
            {"diffusion"} if entry.family == "flows" else set()
        )  # continuous flows
        assert homes & {*source.parts}, f"{name} belongs to {entry.family}, but is in {source}"


def test_files_are_short():
    sizes = {f: len(f.read_text(encoding="utf-8").splitlines()) for f in FILES}
    long_files = [f"{f.relative_to(ROOT)}: {n} lines" for f, n in sizes.items() if n > LONGEST_FILE]
    assert not long_files, f"split files with more than {LONGEST_FILE} lines: {long_files}"


def test_no_file_is_a_collection_of_helpers():
    catch_alls = {"utils", "util", "helpers", "helper", "misc", "common", "base", "tools"}
    files = [f for f in FILES if f.stem in catch_alls or f.parent.name in catch_alls]
    assert not files, files


IRREGULAR = {
    *("drawn", "written", "made", "kept", "held", "found", "given", "taken", "hidden", "built")
}
"""Past participles that do not end in "ed", and are not also verbs such as "read"."""
VERBS_IN_ED = {"seed", "embed", "feed", "need"}


def participles(code: ast.AST) -> list[str]:
    """Return the functions that a past participle alone names; properties may have such names."""
    names = []
    for node in ast.walk(code):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            decorators = {ast.unparse(each).rpartition(".")[2] for each in node.decorator_list}
            word = node.name.strip("_")
            is_participle = word.endswith("ed") and word.isalpha() and word not in VERBS_IN_ED
            if (is_participle or word in IRREGULAR) and not decorators & {
                "property",
                "classmethod",
            }:
                names.append(f"{node.lineno} {node.name}")
    return names


def test_no_function_is_named_by_a_past_participle():
    found = [
        f"{file.relative_to(ROOT)}:{name}" for file in FILES for name in participles(tree(file))
    ]
    assert not found, "\n".join(found)


def test_a_past_participle_is_found():
    code = (
        "def cleaned(): ...\ndef _drawn(): ...\ndef seed(): ...\n@property\ndef shared(self): ..."
    )
    assert participles(ast.parse(code)) == ["1 cleaned", "2 _drawn"]


def test_public_definitions_are_documented():
    missing = []
    for file in FILES:
        if not ast.get_docstring(tree(file)):
            missing.append(f"{file.relative_to(ROOT)}:1")
        for node in tree(file).body:
            is_definition = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
            if is_definition and not node.name.startswith("_") and not ast.get_docstring(node):
                missing.append(f"{file.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert not missing, "\n".join(missing)


def test_every_public_name_exists_and_is_documented():
    for name in limner.__all__:
        assert getattr(limner, name) is not None
        assert name in dir(limner)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = limner.nothing


TEXTS = [
    f
    for pattern in ("*.md", "docs/**/*.md", "docs/**/*.py", "recipes/*/*", "examples/*", "*.toml")
    for f in sorted(ROOT.glob(pattern))
    if f.is_file() and "_build" not in f.parts
]


def test_documents_have_no_absolute_local_paths():
    lines = matches(BANNED["absolute local paths"], [f for f in TEXTS if f.suffix != ".png"])
    assert not lines, "\n".join(lines)


def settings_in(file: Path) -> str:
    """Return the settings that are stored in a picture, or in the header of weights."""
    if file.suffix == ".png":
        return json.dumps(read_settings(file))
    with safe_open(file, "pt") as weights:
        return json.dumps(weights.metadata())


def test_settings_stored_in_files_have_no_absolute_local_paths():
    files = [*(ROOT / "docs").rglob("*.png"), *SOURCE.rglob("*.png")]
    files += SOURCE.rglob("*.safetensors")
    assert len(files) > 100
    assert not [f.name for f in files if re.search(BANNED["absolute local paths"], settings_in(f))]


WIDEST_PAGE = 110
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def wide_lines(text: str) -> list[int]:
    """Return the numbers of the lines that are too wide to read without scrolling."""
    return [n for n, line in enumerate(text.splitlines(), 1) if len(line) > WIDEST_PAGE]


def test_lines_of_the_pages_are_at_most_110_characters_long():
    pages = {p.name: lines for p in PAGES if (lines := wide_lines(p.read_text(encoding="utf-8")))}
    assert not pages, pages


def test_a_wide_line_is_found():
    assert wide_lines("x" * 110 + "\n" + "x" * 111) == [2]


def output_of_new_python(code: str) -> str:
    """Return the output of a new interpreter."""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_importing_limner_does_not_import_torch():
    heavy = output_of_new_python(
        "import sys, limner\n"
        "print([m for m in ('torch', 'numpy', 'pydantic', 'matplotlib') if m in sys.modules])"
    )
    assert heavy.strip() == "[]"


HELP = """
import sys
from limner.__main__ import main
sys.argv = ["limner", "--help"]
try:
    main()
except SystemExit as end:
    assert not end.code
"""
HELP_OF_ALL = """
import sys
from limner.__main__ import main
from limner.commands.app import VERBS
sys.modules["torch"] = None  # an import of it fails, and the traceback shows where
helps = [[*verb.split(), "--help"] for verb in ("", *VERBS, "data check")]
for arguments in [*helps, ["recipes"]]:
    sys.argv = ["limner", *arguments]
    try:
        main()
    except SystemExit as end:
        assert not end.code
"""


def test_asking_for_help_or_recipes_does_not_import_torch():
    output = output_of_new_python(HELP_OF_ALL)
    assert "train one: limner train recipe:" in output
    assert all(f"limner {verb}" in output for verb in (*VERBS, "data check"))


@cache
def seconds(code: str) -> float:
    """Return the CPU seconds of the code in a new interpreter: the best of three runs after one
    to warm up. CPU time does not depend on other programs.
    """

    def run() -> float:
        before = os.times()
        environment = os.environ | {"PYTHONPATH": ""}
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, check=True, env=environment
        )
        after = os.times()
        return after[2] + after[3] - before[2] - before[3]

    run()
    return min(run() for _ in range(3))


@pytest.mark.parametrize("start", ["import limner", HELP], ids=["import", "help"])
def test_starting_takes_a_quarter_of_importing_torch(start: str):
    assert seconds(start) <= seconds("import torch") / 4


def test_files_of_tests_have_unique_names():
    """Two files with one name in different folders cannot be imported together."""
    names = [file.name for file in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
