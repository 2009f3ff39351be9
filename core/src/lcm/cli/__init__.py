"""The command `lcm`: one thin module per subcommand, each imported only when it is run.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no such backend, 4 a bad file or data, 5 training had to stop,
130 interrupted. An error is one line on standard error.
"""

import importlib
import os
import sys
import warnings
from typing import Any, TextIO

import click

# Command: its line of help, here so that `lcm --help` need not import it.
COMMANDS = {
    "train": "Train a model on source code.",
    "complete": "Continue a piece of code.",
    "generate": "Continue a prompt, with every control over sampling.",
    "chat": "Talk with a model that has learned to answer.",
    "eval": "Measure how well a model predicts files, and solves problems.",
    "show": "Show what a model is, and what memory it takes.",
    "convert": "Write a model as another kind of file.",
    "quantize": "Write a model in fewer bits.",
    "tokenize": "Show how text becomes tokens, or train a tokenizer.",
    "backends": "List the backends, and why each can or cannot be used.",
    "doctor": "Run a real kernel of every backend, and say what could be better.",
    "tune": "Measure which backend is fastest for which shapes.",
    "bench": "Measure products, kernels, training, writing and starting.",
    "host": "Show what this machine is.",
    "new-backend": "Write the project of a backend of your own.",
}


class _Lazy(click.Group):
    """Commands by name; plugins' own are found in their manifests, which runs no code of theirs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *_plugin_commands()]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name in COMMANDS:
            module = importlib.import_module(f"lcm.cli.{name.replace('-', '_')}")
            command: click.Command = module.command
            return command
        found = _plugin_commands().get(name)
        return _loaded(found.target) if found else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [*COMMANDS.items(), *((n, c.help) for n, c in _plugin_commands().items())]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        name = args[0]
        if not name.startswith("-") and name not in self.list_commands(ctx):
            import difflib

            near = difflib.get_close_matches(name, self.list_commands(ctx), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "; see lcm --help"
            raise click.UsageError(f"no command {name!r}{hint}")
        return super().resolve_command(ctx, args)


@click.group(
    cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(package_name="lcm", prog_name="lcm")
@click.option(
    "--host", "host_record", metavar="FILE", help="Pretend to be the machine of this host record."
)
@click.option(
    "--offline", is_flag=True, help="Fetch nothing: of a hub's models use what is in the cache."
)
def command(host_record: str | None, offline: bool) -> None:
    """Train, run and serve local code models on whatever hardware is there.

    \b
    lcm train src/ --minutes 10         learn from a folder of code
    lcm complete "def read_json(path):" continue it with the installed model
    lcm backends                        what this machine can use
    """
    if host_record:
        os.environ["LCM_HOST"] = host_record
    if offline:
        os.environ["LCM_OFFLINE"] = "on"


def main(arguments: list[str] | None = None) -> None:
    """Run the command, and end the process with its exit code."""
    from lcm.errors import LcmError, LcmWarning

    # The threads of numpy's own library, too, should sleep soon after a product: by default they wait awake
    # for 100 ms, and slow whatever a backend does next. Here numpy is not imported yet.
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "17")
    warnings.showwarning = _show_warning
    warnings.simplefilter("always", LcmWarning)
    try:
        code = command.main(arguments, prog_name="lcm", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        code = 2
    except click.ClickException as error:
        code = _fail(_one_line(error), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        code = _fail("interrupted", 130)
    except LcmError as error:
        code = _fail(str(error), error.exit_code)
    except BrokenPipeError:  # as when the output is piped into head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        code = _fail(f"{where}{error.strerror or error}", 1)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> int:
    click.echo(f"lcm: {message}", err=True)
    return code


def _one_line(error: click.ClickException) -> str:
    text = " ".join(error.format_message().split())
    context = getattr(error, "ctx", None)
    hint = f" (see {context.command_path} --help)" if context and "--help" not in text else ""
    return text.rstrip(".") + hint


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int,
    file: TextIO | None = None, line: str | None = None,
) -> None:  # fmt: skip
    from lcm.errors import LcmWarning

    kind = "note" if issubclass(category, LcmWarning) else category.__name__
    click.echo(f"lcm: {kind}: {message}", err=True)


def _plugin_commands() -> dict[str, Any]:
    from lcm.backend import plugins

    manifests = (plugin.manifest for plugin in plugins.installed())
    return {name: c for m in manifests if m for name, c in m.commands.items()}


def _loaded(target: str) -> click.Command:
    module, _, name = target.partition(":")
    found: click.Command = getattr(importlib.import_module(module), name)
    return found
