"""Installing the hostile plugins for a test: as pip would, in milliseconds, where nothing else is seen."""

import os
import shutil
import sys
import tomllib
from pathlib import Path

import pytest

from lcm.backend import discovery, ledger, plugins

HOSTILE = Path(__file__).parent


@pytest.fixture
def site(tmp_path, monkeypatch):
    """An empty folder on sys.path, a cache of its own, and no settings or plugins but ours."""
    for name in [name for name in os.environ if name.startswith("LCM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LCM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    others = ",".join(plugin.name for plugin in plugins.installed())
    monkeypatch.setenv("LCM_DISABLE", others)
    monkeypatch.setattr(discovery, "_opened", {})
    monkeypatch.setattr(ledger, "_memory", {})
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    yield site
    for name in [name for name in sys.modules if name.startswith("hostile_")]:
        del sys.modules[name]


def install(site: Path, *names: str) -> None:
    """What pip would leave in site-packages, for distributions under hostile/."""
    for name in names:
        project = tomllib.loads((HOSTILE / name / "pyproject.toml").read_text())["project"]
        package = HOSTILE / name / f"hostile_{name}"
        if package.exists():
            shutil.copytree(package, site / package.name)
        info = site / f"hostile_{name}-{project['version']}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
        )
        points = project["entry-points"]["lcm.backends"]
        lines = [f"{key} = {value}\n" for key, value in points.items()]
        (info / "entry_points.txt").write_text("[lcm.backends]\n" + "".join(lines))
