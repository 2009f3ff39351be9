"""The example for AWS Lambda: its template is one, and its zip is complete, for arm64, and small enough."""

import importlib
import importlib.util
import json
import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from samtranslator.translator.transform import transform
from samtranslator.yaml_helper import yaml_parse

ROOT = Path(__file__).parent.parent.parent
EXAMPLE = ROOT / "examples" / "aws-lambda"
HANDLER = "lcm.serve.aws_lambda.handler"
AARCH64 = 183  # e_machine of an ELF file


def module_of(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# The template.


def lint(path):
    program = Path(sysconfig.get_path("scripts"), "cfn-lint")
    command = [program, path, "--regions", "eu-central-1"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


class NoPolicies:
    def load(self):
        return {}


def cloud_formation(text, monkeypatch):
    """What SAM makes of a template, for a zip that has been uploaded."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    template = yaml_parse(text)
    for resource in template["Resources"].values():
        if "CodeUri" in resource["Properties"]:
            resource["Properties"]["CodeUri"] = "s3://bucket/function.zip"
    return transform(template, {}, NoPolicies(), passthrough_metadata=True)


def test_the_template_is_one_for_cfn_lint_and_so_is_what_sam_makes_of_it(monkeypatch, tmp_path):
    done = lint(EXAMPLE / "template.yaml")
    assert done.returncode == 0, done.stdout
    made = tmp_path / "made.json"
    made.write_text(
        json.dumps(cloud_formation((EXAMPLE / "template.yaml").read_text(), monkeypatch))
    )
    done = lint(made)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [("[arm64]", "[arm65]", "E3030"), ("1769", "17", "E3034"), ("python3.12", "python3.1", "E")],
)
def test_the_linter_would_find_a_mistake(monkeypatch, tmp_path, old, new, rule):
    text = (EXAMPLE / "template.yaml").read_text()
    assert old in text
    made = tmp_path / "made.json"
    made.write_text(json.dumps(cloud_formation(text.replace(old, new), monkeypatch)))
    done = lint(made)
    assert done.returncode and rule in done.stdout


def test_both_functions_are_for_arm64_with_a_whole_processor(monkeypatch):
    made = cloud_formation((EXAMPLE / "template.yaml").read_text(), monkeypatch)["Resources"]
    functions = [r["Properties"] for r in made.values() if r["Type"] == "AWS::Lambda::Function"]
    assert [f["PackageType"] for f in functions] == ["Zip", "Image"]
    for function in functions:
        assert (function["Architectures"], function["MemorySize"]) == (["arm64"], 1769)
    assert functions[0]["Handler"] == HANDLER


def test_zip_and_image_have_the_same_settings_all_of_which_there_are():
    from lcm.settings import SETTINGS

    text = (EXAMPLE / "template.yaml").read_text()
    variables = yaml_parse(text)["Globals"]["Function"]["Environment"]["Variables"]
    dockerfile = (EXAMPLE / "Dockerfile").read_text()
    assert dict(re.findall(r"(LCM_\w+)=(\S+)", dockerfile)) == variables
    assert {f"LCM_{name.upper()}" for name in SETTINGS} >= set(variables)
    assert f'CMD ["{HANDLER}"]' in dockerfile
    module, _, name = HANDLER.rpartition(".")
    assert callable(getattr(importlib.import_module(module), name))


# The zip.


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """What build.py says and makes, with a wheel of the core alone: dependencies come from the index."""
    folder = tmp_path_factory.mktemp("lambda")
    module_of(ROOT / "tools" / "build.py").build(ROOT / "core", folder)
    command = [sys.executable, EXAMPLE / "build.py", folder, "--out", folder / "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def test_the_zip_is_small_enough_to_be_uploaded_directly(built):
    folder, said = built
    archive = folder / "out" / "function.zip"
    with zipfile.ZipFile(archive) as file:
        unzipped = sum(entry.file_size for entry in file.infolist())
    assert archive.stat().st_size < 50 * 2**20 and unzipped < 250 * 2**20
    assert f"{archive.stat().st_size / 1e6:.1f} MB, {unzipped / 1e6:.1f} MB unzipped" in said
    assert "no wheel for aarch64 of lcm_neon, lcm_sve" in said


def test_all_that_the_handler_imports_is_in_the_zip_and_all_libraries_are_for_arm64(
    built, environment
):
    with zipfile.ZipFile(built[0] / "out" / "function.zip") as file:
        names = file.namelist()
        libraries = [name for name in names if ".so" in Path(name).name]
        machines = {int.from_bytes(file.read(name)[18:20], "little") for name in libraries}
    assert machines == {AARCH64} and len(libraries) > 10
    assert "model.gguf" in names
    code = (
        f"import sys; sys.argv = ['x']; from {HANDLER.rpartition('.')[0]} import handler\n"
        "assert handler({'prompt': 'def f(', 'max_tokens': 2})['status'] == 200\n"
        "paths = {n: getattr(m, '__file__', None) or '' for n, m in sys.modules.items() if '.' not in n}\n"
        "print(*(name for name, path in paths.items() if 'site-packages' in path))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    wanted = {
        n for n in done.stdout.split() if not n.startswith(("lcm_", "_", "scipy_", "sitecustomize"))
    }
    # What Python 3.12 has in itself.
    wanted -= {"importlib_metadata", "zipp", "typing_extensions"}
    there = {Path(name).parts[0].removesuffix(".py") for name in names}
    assert {"numpy", "tokenizers"} <= wanted <= there


def test_the_zip_is_the_same_for_the_same_files_and_refused_where_it_is_too_large(tmp_path):
    example = module_of(EXAMPLE / "build.py")
    package = tmp_path / "package"
    package.mkdir()
    (package / "one.py").write_text("one = 1\n" * 10)
    assert example.write_zip(package, tmp_path / "a.zip") == 80
    (package / "one.py").touch()
    example.write_zip(package, tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    example.say(tmp_path / "a.zip", 250 * 2**20)
    with pytest.raises(SystemExit, match="Lambda takes 262 MB unzipped; use a container's image"):
        example.say(tmp_path / "a.zip", 250 * 2**20 + 1)


def test_without_a_wheel_of_lcm_it_ends_in_one_line(tmp_path):
    with pytest.raises(
        SystemExit, match="there is no wheel of lcm; make it: python tools/build.py"
    ):
        module_of(EXAMPLE / "build.py").ours(tmp_path)
