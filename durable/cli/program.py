"""The commands together: `durable …`. What goes wrong is one line of errors, and an exit code that says of which kind."""

from __future__ import annotations

import io
import os
import sys
from typing import Any, NoReturn

import click
from click.exceptions import NoArgsIsHelpError
from click.shell_completion import get_completion_class

from durable.cli import checking, looking, projects, serving, showing, steering
from durable.cli.exits import Exit, Refused, exit_of
from durable.cli.texts import safe
from durable.errors import DurableError


class Program(click.Group):
    """The group of all commands: whatever goes wrong is one line."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; errors of the package become click's, with an exit code."""
        try:
            return super().invoke(ctx)
        except (DurableError, TimeoutError) as error:
            raise Refused(str(error), exit_of(error)) from error

    def main(self, *arguments: Any, **options: Any) -> NoReturn:
        """Run the command line, and end the process."""
        options["standalone_mode"] = False  # click's own way with errors takes four lines
        if isinstance(sys.stdout, io.TextIOWrapper):  # what the terminal cannot show is shown by its number
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            code = super().main(*arguments, **options)
            sys.stdout.flush()
        except NoArgsIsHelpError as error:
            error.show()
            code = error.exit_code
        except click.ClickException as error:
            click.echo(_line_of(error), err=True)
            code = error.exit_code
        except click.Abort:
            click.echo("interrupted", err=True)
            code = Exit.INTERRUPTED
        except BrokenPipeError:  # whoever was to read it has seen enough, as `head` has
            code = _write_no_more()
        except OSError as error:
            click.echo(f"durable: {error}", err=True)
            code = _write_no_more()
        raise SystemExit(int(code) if isinstance(code, int) else 0)


def _write_no_more() -> Exit:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains at its own end
    return Exit.FAILED


def _line_of(error: click.ClickException) -> str:
    ctx = error.ctx if isinstance(error, click.UsageError) else None
    command = "durable" if ctx is None else ctx.command_path
    help_at = "" if ctx is None else f" (see {command} --help)"
    return f"{command}: {safe(error.format_message())}{help_at}"


@click.group(
    cls=Program,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Exit codes:
  0  done
  1  refused or failed: the store, a conflict, a replay that differs, a finding of the doctor
  2  the command line is wrong
  3  there is no such instance
  4  the orchestration that was waited for has not completed: it failed, was cancelled or terminated
  5  it has not ended in time
  130  interrupted

\b
Manual: docs/command-line.md""",
)
@click.version_option(package_name="durable-orchestration", prog_name="durable")
def program() -> None:
    """Run, watch and steer durable orchestrations.

    Every command that touches a store takes --store URL; DURABLE_STORE is its default. Every command that prints takes --json.

    \b
      durable init shop && cd shop          # a small project that runs
      export DURABLE_STORE=sqlite:///shop.db
      durable worker app:app --reload       # in one terminal
      durable start order '"A-7"' --id order-7
      durable ls
      durable show order-7                  # its timeline, and what it waits for
      durable raise order-7 approved true
      durable watch order-7
      durable cancel --name order --created-before 30d --dry-run
      durable history order-7 --export order-7.history
      durable replay order-7.history app:app
    """


@program.command(short_help="Print the script that completes commands in a shell.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what makes a shell complete commands, options, statuses and the ids of instances.

    \b
      bash:  echo 'eval "$(durable completion bash)"' >> ~/.bashrc
      zsh:   echo 'eval "$(durable completion zsh)"' >> ~/.zshrc
      fish:  durable completion fish > ~/.config/fish/completions/durable.fish
    """
    made = get_completion_class(shell)
    assert made is not None, "click knows each of the choices"
    click.echo(made(program, {}, "durable", "_DURABLE_COMPLETE").source())


for command in (
    looking.list_instances,
    showing.show,
    showing.watch,
    looking.history,
    looking.schedules,
    steering.start,
    steering.raise_event,
    steering.query,
    steering.update,
    *steering.STEERING,
    steering.restart,
    steering.fork,
    checking.replay,
    checking.doctor,
    checking.confirm_clock,
    projects.init,
    serving.worker,
    serving.dashboard,
):
    program.add_command(command)
