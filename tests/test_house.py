"""The house's own rules, checked on the source: who may import whom, and what no file may say."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CORE = ROOT / "core" / "src" / "lcm"

# From the ground up: a module may import those of its own row and of the rows above it here.
LAYERS = (
    ("errors",),
    ("settings", "packages"),
    ("host", "formats"),
    ("memory", "primitives", "recording", "tensor", "grad", "program"),
    ("ops",),
    ("backend", "files", "text"),
    ("caches",),
    ("nn",),
    ("models",),
    ("generate",),
    ("train", "evaluation"),
    ("serve", "bench", "testing", "building"),
    ("cli",),
)
# The one import that goes up: a call of an op asks the dispatcher, by name and late.
UPWARD = {("ops/op.py", "lcm.backend.dispatch")}

CTYPES = {"host/calls.py", "backend/native.py"}

PLUGINS = (
    "openblas",
    "neon",
    "sve",
    "avx2",
    "avx512",
    "accelerate",
    "metal",
    "opencl",
    "cuda",
    "tinycode",
)
# Where the core may say a plugin's name in code: settings and hints for what a user may want to install.
NAMING = {
    "settings.py": {"openblas"},  # a setting of that plugin, which the core must know to accept it
    "cli/__init__.py": {
        "openblas"
    },  # numpy's own copy of that library, which takes its orders by name
    "generate/loading.py": {"tinycode"},  # the model that is taken when none is named
    "cli/doctor.py": {"tinycode"},  # what to install where there is no model
    "host/": {"neon", "sve", "avx2", "avx512"},  # instruction sets, which are named there only
}


@cache
def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def sources():
    return sorted(CORE.rglob("*.py"))


def inside(path):
    return path.relative_to(CORE).as_posix()


def parametrize(name, values, ids):
    return pytest.mark.parametrize(name, values, ids=ids)


every_module = parametrize("path", sources(), [inside(p) for p in sources()])


def imported(path):
    """Every module that a file imports, at its top or late, by `import` or by name."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "lcm":
            yield from (f"lcm.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{inside(path)}:{node.lineno}: imports are absolute"
            yield node.module
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (a.value for a in node.args if isinstance(a, ast.Constant))


def layer(module):
    """The row of `lcm.backend.native`; None for what is not ours, or is the package itself."""
    parts = module.split(".")
    if parts[0] != "lcm" or len(parts) == 1 or parts[1].startswith("__"):
        return None
    found = [i for i, row in enumerate(LAYERS) if parts[1] in row]
    assert found, f"{module} stands in no row of LAYERS: say where it belongs"
    return found[0]


@every_module
def test_imports_go_one_way(path):
    own = layer("lcm." + inside(path).removesuffix(".py").replace("/", "."))
    for module in imported(path):
        above = layer(module)
        if own is not None and above is not None and (inside(path), module) not in UPWARD:
            assert above <= own, f"{inside(path)} imports {module}, which is built on it"


def test_ctypes_is_imported_in_two_files():
    assert {inside(p) for p in sources() if "ctypes" in set(imported(p))} == CTYPES


@every_module
def test_every_module_begins_with_one_sentence(path):
    text = ast.get_docstring(tree(path))
    if path.name == "__init__.py" and not tree(path).body:
        return  # an empty package says nothing
    assert text, "no docstring"
    first = text.split("\n\n")[0]
    assert first.rstrip().endswith((".", ":")), first


def repository_python():
    folders = ("core", "plugins", "models", "tests", "tools", "examples", "benchmarks")
    paths = (p for folder in folders for p in (ROOT / folder).rglob("*.py"))
    return sorted(p for p in paths if not {"build", ".tox"} & set(p.parts))


def test_no_file_is_longer_than_400_lines():
    still_to_be_split = {"core/tests/test_discovery.py"}
    sizes = {str(p.relative_to(ROOT)): p.read_text().count("\n") for p in repository_python()}
    assert not {n: s for n, s in sizes.items() if s > 400 and n not in still_to_be_split}


def words_of_code(path):
    """The words in names and texts of a file, docstrings left out."""
    documentation = {
        id(node.value) for node in ast.walk(tree(path))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }  # fmt: skip
    for node in ast.walk(tree(path)):
        if id(node) in documentation:
            continue
        for value in (
            getattr(node, "id", ""),
            getattr(node, "attr", ""),
            getattr(node, "value", ""),
        ):
            if isinstance(value, str):
                yield from re.findall(r"[a-z0-9]+", value.lower())


@every_module
def test_the_core_names_no_plugin(path):
    allowed = [names for place, names in NAMING.items() if inside(path).startswith(place)]
    named = set(words_of_code(path)) & set(PLUGINS)
    assert named <= set().union(*allowed)


def test_no_file_names_a_machine_or_a_registry():
    pattern = re.compile(r"(?<![\w.])/(?:root|work|home/\w+)/|pypi\.org|pythonhosted")
    suffixes = {".py", ".md", ".toml", ".ini", ".sh", ".c", ".h", ".txt"}
    folders = ("core", "plugins", "tools", "tests", "docs", "examples")
    paths = [p for f in folders for p in (ROOT / f).rglob("*") if p.suffix in suffixes]
    paths += [p for p in ROOT.iterdir() if p.suffix in suffixes]
    found = [
        f"{p.relative_to(ROOT)}: {line.strip()}"
        for p in paths if p != Path(__file__) and "build" not in p.parts
        for line in p.read_text(encoding="utf-8", errors="replace").splitlines()
        if pattern.search(line)
    ]  # fmt: skip
    assert not found


# What exists is documented.


def reference():
    return "\n".join(
        p.read_text(encoding="utf-8") for p in (ROOT / "docs" / "reference").glob("*.md")
    )


def test_every_op_is_documented():
    from lcm.ops import CATALOGUE

    assert not [name for name in CATALOGUE if f"## {name}\n" not in reference()]


def test_every_command_is_documented():
    from lcm.cli import COMMANDS

    assert not [name for name in COMMANDS if f"## lcm {name}\n" not in reference()]


def test_every_hook_is_documented():
    from lcm.backend import hooks

    names = [n for n, f in vars(hooks).items() if hasattr(f, "lcm_spec")]
    assert names and not [name for name in names if f"## {name}\n" not in reference()]


def test_every_setting_and_every_error_is_documented():
    from lcm import errors
    from lcm.settings import SETTINGS

    kinds = [n for n, e in vars(errors).items() if isinstance(e, type)]
    wanted = [*(f"`{name}`" for name in SETTINGS), *kinds]
    assert not [name for name in wanted if name not in reference()]


def test_the_header_for_c_is_current():
    from lcm.ops.header import header

    assert (CORE / "include" / "lcm" / "ops.h").read_text(encoding="utf-8") == header()
