"""The command's face: help, completion, exit codes, and errors of one line."""

import json
import re

import pytest

from lcm.cli import COMMANDS


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(lcm, tmp_path, name):
    done = lcm(name, "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(rf"^  .*\blcm (--host \w+ )?{name}\b", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_there_is_a_completion_script(lcm, tmp_path, shell):
    done = lcm(cwd=tmp_path, _LCM_COMPLETE=f"{shell}_source")
    assert "_LCM_COMPLETE" in done.stdout


def test_the_shell_completes_commands(lcm, tmp_path):
    words = {"_LCM_COMPLETE": "bash_complete", "COMP_WORDS": "lcm tr", "COMP_CWORD": "1"}
    assert "plain,train" in lcm(cwd=tmp_path, **words).stdout.splitlines()


def test_no_command_shows_help(lcm, tmp_path):
    done = lcm(cwd=tmp_path)
    assert done.returncode == 2 and "Usage: lcm" in done.stdout + done.stderr


WRONG_USAGE = [
    ("trian", "did you mean 'train'"),
    ("--host nowhere backends", "nowhere"),
    ("train missing", "missing"),
    ("train --steps zero", "zero"),
    ("train --steps 0", "steps must be 1 or more"),
    ("train --resume run --from tiny", "--resume"),
    ("complete", "PROMPT"),
    ("complete x --model missing", "no model 'missing'"),
    ("complete x --model missing --temperature -1", "temperature"),
    ("generate x --top-p 2", "top_p must be above 0"),
    ("eval", "PATHS"),
    ("tokenize --train", "--out"),
    ("tokenize x y", "put quotes around one text"),
    ("host --nonsense", "--nonsense"),
]


@pytest.mark.parametrize(("arguments", "said"), WRONG_USAGE)
def test_wrong_usage_is_one_line_and_code_2(refused, tmp_path, arguments, said):
    assert said in refused(2, *arguments.split(), cwd=tmp_path)


@pytest.mark.parametrize("command", ["complete x", "generate x", "train"])
def test_a_backend_that_is_not_there_is_one_line_and_code_3(refused, tmp_path, command):
    line = refused(3, *command.split(), "--backend", "nonsense", cwd=tmp_path)
    assert "no backend 'nonsense' here" in line and "ready: " in line


def test_an_empty_folder_is_one_line_and_code_4(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "nothing to train on" in refused(4, "train", "empty", cwd=tmp_path)


def test_a_folder_without_a_model_is_one_line_and_code_4(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "no config.json" in refused(4, "complete", "x", "--model", "empty", cwd=tmp_path)


def test_a_setting_that_does_not_exist_is_refused(refused, tmp_path):
    (tmp_path / "lcm").mkdir()
    (tmp_path / "lcm" / "config.toml").write_text("treads = 2\n")
    line = refused(2, "backends", cwd=tmp_path, XDG_CONFIG_HOME=str(tmp_path))
    assert "no setting 'treads'" in line


def test_backends_are_listed_for_people_and_for_programs(lcm, tmp_path):
    table = lcm("backends", cwd=tmp_path).stdout
    found = json.loads(lcm("backends", "--json", cwd=tmp_path).stdout)
    assert {one["name"]: one["state"] for one in found}["reference"] == "ready"
    assert all(one["name"] in table and one["reason"] for one in found)


def test_a_machine_can_be_pretended(lcm, tmp_path):
    shown = lcm("--host", "graviton3", "host", "--json", cwd=tmp_path).stdout
    assert json.loads(shown)["arch"]["value"] == "aarch64"
