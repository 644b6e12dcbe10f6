"""The command line.

    worldprobe run othello --out runs/othello          # the study; the same command again continues it
    worldprobe reproduce othello --out runs/paper      # the paper's numbers beside ours
    worldprobe reproduce formation --out runs/forms    # the smallest experiments on how representations form
    worldprobe formation maze --out runs/maze-forms    # when behaviour, probes and alignments appear in training
    worldprobe intervene decoy --out runs/decoy        # is what can be read used, is it enough, and at what price
    worldprobe sweep decoy --seeds 0-4 --out runs/s    # many models, tasks, probes and seeds; on a cluster too
    worldprobe status runs/s                           # how far it has come
    worldprobe models                                  # reference models; `models path NAME` prints a directory
    worldprobe cache ls                                # activation stores; also verify, repair, prune
    worldprobe export runs/othello --to csv,latex      # results in the formats of others
    worldprobe leaderboard build runs/* --out site     # a page of all results; also validate, add
    worldprobe cite runs/othello                       # how to cite worldprobe, and whose methods a run used

A task has a study where its folder says what one asks (`tasks._study`), which `worldprobe._study` carries out; a
module `worldprobe/_TASK.py` with `run(out, ...)`, `reproduce(out, ...)` and `plan(...)` is one of its own. Either is
imported only when it is asked for: building this parser loads neither torch nor pandas. Options that are not given are
not passed, so the defaults are those of the functions. Exit codes: 0, 1 when a reproduced check or a cell of a sweep
fails, a store is damaged or a submission is refused, 2 for an error, 130 for Ctrl-C. An error is one line; --debug
shows its traceback.
"""

import argparse
import errno
import importlib
import json
import math
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from . import __version__, _cli_share, _cli_sweep
from ._terminal import plain

_INTERVENE_EXAMPLES = """examples:
  worldprobe intervene decoy --out runs/decoy
  worldprobe intervene decoy --model decoy-1 --labels mark --edits steer,leace --quick --out runs/mark
  worldprobe intervene othello --model othello-6x6 --with size=6 --with edit=erase --windows --out runs/erase
  worldprobe intervene othello --target e6 --price 0.01 --out runs/e6
"""
_EXIT_CODES = ("Exit codes: 0; 1 when a reproduced check or a cell of a sweep fails, a store is damaged or a "
               "submission is refused; 2 for an error; 130 for Ctrl-C.")
EXPERIMENTS = ("formation", "in_context", "universality")  # reproduced, of no task: worldprobe/_NAME.py
_NOT_OPTIONS = ("command", "action", "name", "debug", "dry_run", "fresh", "out")


class CommandError(ValueError):
    """The command line asks for something that is not there; the message says what is."""


class Parser(argparse.ArgumentParser):
    """argparse, with errors of one line that say what there is."""

    def error(self, message: str) -> NoReturn:
        if "not allowed with argument" in message:
            message += "; give one of the two"
        stop = "" if message.endswith("?") else "."
        self.exit(2, f"{self.prog}: {plain(message)}{stop} See {self.prog} --help\n")

    def parse_known_args(self, args=None, namespace=None):
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:  # said here, where the command is known, not by the parser above it
            options = [text for action in self._actions for text in action.option_strings]
            flag = unknown[0].partition("=")[0]
            self.error(f"no option {flag!r}{_near(flag, options)}" if flag.startswith("-") else
                       f"unexpected {' '.join(unknown)!r}")
        return found, unknown

    def _check_value(self, action, value):
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(None, no_such("command", value, action.choices))


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = parser().parse_args(argv)
    known = {"run": run, "reproduce": reproduce, "formation": formation, "intervene": intervene, "models": models,
             "cache": cache, "export": _cli_share.export, "leaderboard": _cli_share.leaderboard,
             "cite": _cli_share.cite, "sweep": _cli_sweep.sweep, "status": _cli_sweep.status}
    command = known[arguments.command]
    try:
        return command(arguments)
    except KeyboardInterrupt:
        again = shlex.join(a for a in argv if a != "--fresh")
        print(f"\nstopped; what is done is kept. To continue: worldprobe {again}", file=sys.stderr)
        return 130
    except Exception as error:
        if arguments.debug:
            raise
        print(f"worldprobe: {plain(_one_line(error))}", file=sys.stderr)
        return 2


def parser() -> Parser:
    top = Parser(prog="worldprobe", allow_abbrev=False, epilog=_EXIT_CODES,
                 description="What a transformer's hidden states encode, and whether the model uses it.")
    top.add_argument("--version", action="version", version=f"worldprobe {__version__}")
    shared = Parser(add_help=False)
    shared.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = top.add_subparsers(dest="command", required=True,
                                  metavar="run | reproduce | formation | intervene | sweep | status | models | "
                                          "cache | export | leaderboard | cite")
    for name, words in (("run", "probe a model on a task, edit what was found, and write the report"),
                        ("reproduce", "measure a paper's numbers again and print them beside the paper's")):
        command = commands.add_parser(name, help=words, description=f"{words[0].upper()}{words[1:]}.", parents=[shared],
                                      argument_default=argparse.SUPPRESS, allow_abbrev=False)
        command.add_argument("name", metavar="TASK" if name == "run" else "PAPER", help="a study, e.g. othello")
        _study_options(command)
    _formation_command(commands, shared)
    _intervene_command(commands, shared)
    _cli_sweep.add_commands(commands, shared)
    listing = commands.add_parser("models", help="list the reference models, or print the directory of one",
                                  parents=[shared], allow_abbrev=False)
    actions = listing.add_subparsers(dest="action", metavar="path NAME")
    path = actions.add_parser("path", help="print the directory of a reference model", parents=[shared])
    path.add_argument("name", metavar="NAME")
    _cache_commands(commands, shared)
    _cli_share.add_commands(commands, shared)
    return top


def _study_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--out", required=True, metavar="DIR", help="folder of the run; the same command again continues there")
    add("--model", metavar="M", help="reference model, local directory, Hub id, or old TransformerLens file")
    add("--prompts", type=_count, metavar="N", help="prompts for every reading (default: what the study says)")
    add("--games", type=_count, metavar="N", help="othello: games for the probes")
    add("--cases", metavar="KIND", help="othello: intervention cases: published, natural, unnatural")
    add("--n-cases", type=_count, metavar="N", help="cases to intervene on (default: what the study says)")
    add("--with", dest="options", type=_option, action="append", metavar="KEY=VALUE", help="an option of the study, "
        "such as size=6 or data=FILE.csv; may be given more than once")
    add("--seed", type=_seed, metavar="N", help="seed of whatever is random (default 0)")
    size = command.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="a small version: minutes")
    size.add_argument("--full", dest="quick", action="store_false", help="the whole study")
    add("--fresh", action="store_true", help="discard what an earlier run left in DIR")
    add("--dry-run", action="store_true", help="print the plan: cells, bytes, memory, time; compute nothing")


def _formation_command(commands: Any, shared: Parser) -> None:
    words = "over a model's checkpoints: when it behaves, when probes read it, when states, gradients and weights align"
    command = commands.add_parser("formation", help=words, description=f"{words[0].upper()}{words[1:]}.",
                                  parents=[shared], argument_default=argparse.SUPPRESS, allow_abbrev=False)
    add = command.add_argument
    add("models", metavar="MODEL", nargs="+", help="reference model, or a directory with checkpoints/step-000000, ... "
        "in it; several are seeds of one training: what is first in all of them")
    add("--task", metavar="TASK", help="whose study asks and reads it (default: that of a reference model)")
    add("--out", required=True, metavar="DIR", help="folder of the run; the same command again continues there")
    add("--prompts", type=_count, metavar="N", help="prompts for every reading (default: what the study says)")
    add("--seed", type=_seed, metavar="N", help="seed of whatever is random (default 0)")
    add("--quick", action="store_true", help="the small numbers of the study")
    add("--fresh", action="store_true", help="discard what an earlier run left in DIR")


def _intervene_command(commands: Any, shared: Parser) -> None:
    words = "edit what probes read, with every control: is it used, is it enough, what does it cost"
    command = commands.add_parser("intervene", help=words, description=f"{words[0].upper()}{words[1:]}. For every "
                                  "label of a task that has counterfactual cases.", epilog=_INTERVENE_EXAMPLES,
                                  formatter_class=argparse.RawDescriptionHelpFormatter, parents=[shared],
                                  argument_default=argparse.SUPPRESS, allow_abbrev=False)
    add = command.add_argument
    add("task", metavar="TASK", help="a task with cases, e.g. decoy, othello")
    add("--out", required=True, metavar="DIR", help="folder of the run; the same command again continues there")
    add("--model", metavar="M", help="reference model, local directory or Hub id (default: the task's own)")
    add("--labels", type=_names, metavar="A,B", help="which labels (default: all that have cases)")
    add("--edits", type=_names, metavar="A,B", help="to write a label: steer, move_to, patch, reflect, gradient; to "
        "take it away: project_out, leace, inlp, rlace, splince (default: all)")
    add("--directions", type=_names, metavar="A,B", help="PROBE.read (its weights), PROBE.write (how activations move "
        "with the label) or PROBE.pair (read along the one, move along the other) of mass_mean, logistic, lda, "
        "encoding (default: mass_mean.write,logistic.read,encoding.write,lda.pair)")
    add("--target", metavar="T", help="of a label with several targets, such as the squares of a board: which one to "
        "learn a subspace for (default: the one with the most cases)")
    add("--price", type=_price, metavar="KL", help="compare edits at this side effect, in nats (default: the median "
        "edit's largest); for another price nothing is computed again")
    add("--prompts", type=_count, metavar="N", help="prompts to learn directions from")
    add("--n-cases", type=_count, metavar="N", help="cases to edit, for every label")
    add("--with", dest="options", type=_option, action="append", metavar="KEY=VALUE", help="an option of the task, "
        "such as size=6 or edit=erase; may be given more than once")
    add("--windows", action="store_true", help="edit contiguous layers together too, not single ones only")
    add("--seed", type=_seed, metavar="N", help="seed of whatever is random (default 0)")
    add("--quick", action="store_true", help="fewer prompts, cases, directions and doses")
    add("--fresh", action="store_true", help="discard what an earlier run left in DIR")
    add("--dry-run", action="store_true", help="print the plan: labels, arms, bytes, memory, time; compute nothing")


def _cache_commands(commands: Any, shared: Parser) -> None:
    words = "list, check, mend or remove the activation stores of this machine"
    cache = commands.add_parser("cache", help=words, description=f"{words[0].upper()}{words[1:]}.", allow_abbrev=False)
    actions = cache.add_subparsers(dest="action", required=True, metavar="ls | verify | repair | prune")

    def action(name: str, words: str) -> argparse.ArgumentParser:
        command = actions.add_parser(name, help=words, description=f"{words[0].upper()}{words[1:]}.", parents=[shared],
                                     allow_abbrev=False)
        command.add_argument("names", nargs="*", metavar="STORE", help="first digits of its id, or its folder "
                             + ("(default: all)" if name != "prune" else "(default: those the options say)"))
        command.add_argument("--cache", metavar="DIR", help="folder of the stores (default: $WORLDPROBE_CACHE, else "
                                                            "worldprobe in your cache folder)")
        return command

    action("ls", "list stores: model, sites, examples, size, age, state").add_argument(
        "--json", dest="as_json", action="store_true", help="the same for programs, with the whole identity")
    action("verify", "read every byte again and compare it with its hashes; exit code 1 if one differs")
    action("repair", "remove what is damaged, and nothing else; the command that made the store computes it again")
    prune = action("prune", "remove whole stores")
    prune.add_argument("--older-than", type=_age, metavar="AGE", help="not written for this long: 12h, 30d, 8w")
    prune.add_argument("--unfinished", action="store_true", help="stores that lack shards")
    prune.add_argument("--keep", type=_count, metavar="N", help="all but the N that were written last")
    confirm = prune.add_mutually_exclusive_group()
    confirm.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    confirm.add_argument("--yes", action="store_true", help="remove without asking")


def run(arguments: argparse.Namespace) -> int:
    """Runs a study; the last line printed is the path of its report."""
    print(_call("run", arguments))
    return 0


def reproduce(arguments: argparse.Namespace) -> int:
    """Prints a paper's checks beside ours; 1 when one of them fails."""
    path = _call("reproduce", arguments)
    if not isinstance(path, Path):
        print(path)
        return 0
    checks = json.loads(path.read_bytes())
    lines = [line for check in checks for line in (check, *check.get("parts", ()))]
    print_table(("id", "what", "paper", "ours", "pass mark", "pass"), map(_check_cells, lines))
    print(path)
    return 0 if all(check["pass"] for check in checks) else 1


def formation(arguments: argparse.Namespace) -> int:
    """Follows a model, or seeds of one, through training; the last line printed is the path of the report."""
    from ._formation_model import follow
    from ._formation_seeds import follow_seeds, names_of
    from ._run import discard_run, say

    given = {k: v for k, v in vars(arguments).items() if k not in _NOT_OPTIONS}
    models, several = given.pop("models"), len(arguments.models) > 1
    if getattr(arguments, "fresh", False):
        for folder in ("", *names_of(models)) if several else ("",):
            discard_run(Path(arguments.out) / folder)
    print(follow_seeds(arguments.out, models, **given, log=say) if several else
          follow(arguments.out, models[0], **given, log=say))
    return 0


def intervene(arguments: argparse.Namespace) -> int:
    """Intervenes on a task; the last line printed is the path of the report."""
    from . import _intervene

    given = {k: v for k, v in vars(arguments).items() if k not in _NOT_OPTIONS}
    if "options" in given:
        given["options"] = dict(given["options"])
    if getattr(arguments, "dry_run", False):
        print(_intervene.plan(**given))
        return 0
    from ._run import discard_run, say

    if getattr(arguments, "fresh", False):
        discard_run(arguments.out)
    print(_intervene.run(arguments.out, **given, log=say))
    return 0


def models(arguments: argparse.Namespace) -> int:
    """Lists the reference models, or prints the directory of one and nothing else."""
    import tasks

    known = tasks.reference_models()
    if arguments.action == "path":
        if arguments.name not in known:
            raise CommandError(no_such("reference model", arguments.name, known))
        print(known[arguments.name])
    elif known:
        print_table(("name", "task", "parameters", "size", "card"), (model_cells(*item) for item in known.items()))
    else:
        raise CommandError("no reference models in this installation; train one: python -m tasks.othello.train --help")
    return 0


def cache(arguments: argparse.Namespace) -> int:
    """Lists, checks, mends or removes activation stores; 1 when one is damaged."""
    from ._cache import ls, prune, repair, verify

    options = {k: v for k, v in vars(arguments).items() if k not in ("command", "action", "debug")}
    return {"ls": ls, "verify": verify, "repair": repair, "prune": prune}[arguments.action](**options)


def studies() -> list[str]:
    """Tasks that have a study."""
    from . import _study

    return sorted({*_own_studies(), *_study.studies()})


def _own_studies() -> list[str]:
    """Tasks whose study is a module of this package."""
    import pkgutil

    import tasks
    import worldprobe

    here = {module.name for module in pkgutil.iter_modules(worldprobe.__path__)}
    return [name for name in tasks.available() if f"_{name}" in here]


def model_cells(name: str, folder: Path) -> tuple[str, str, str, str, str]:
    """Name, task, parameters, size on disk and the first sentence of the card of a model directory."""
    parameters = sum(_n_parameters(file) for file in sorted(folder.glob("*.safetensors")))
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return name, folder.parent.parent.name, f"{parameters:,}", f"{size / 1e6:.1f} MB", _card_line(folder / "README.md")


def _call(function: str, arguments: argparse.Namespace) -> Any:
    """The study's `run` or `reproduce`, with the options that were given; its `plan` under --dry-run."""
    import inspect  # a tenth of the time of --help

    import tasks

    given = vars(arguments)
    task, out, papers = given["name"], given["out"], function == "reproduce"
    own = task in _own_studies() or (papers and task in EXPERIMENTS)
    if not own and task not in tasks.available():  # asked first: what has a study is known once torch is loaded
        known = [*tasks.available(), *EXPERIMENTS] if papers else tasks.available()
        raise CommandError(no_such("paper" if papers else "task", task, known))
    if not own and task not in studies():
        known = [*studies(), *EXPERIMENTS] if papers else studies()
        raise CommandError(no_such("paper" if papers else "task", task, known))
    study = importlib.import_module(f"worldprobe._{task}" if own else "worldprobe._study")
    dry = given.get("dry_run", False)
    call = getattr(study, "plan" if dry else function, None)
    if call is None:
        raise CommandError(f"{task} has no {'plan for --dry-run' if dry else function}; leave it out")
    options = {k: v for k, v in given.items() if k not in _NOT_OPTIONS}
    if "options" in options:
        options["options"] = dict(options["options"])
    taken = inspect.signature(call).parameters
    if unknown := [_flag(k) for k in options if k not in taken]:
        flags = ", ".join(_flag(k) for k in taken if k not in ("out", "log", "task"))
        raise CommandError(f"{function} {task} does not take {', '.join(unknown)}; it takes {flags}")
    names = [] if own else [task]
    if dry:
        return call(*names, **options)
    from ._run import discard_run, say

    if given.get("fresh"):
        discard_run(out)
    return Path(call(out, *names, **options, log=say))


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdigit() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} is no seed; give a whole number from 0 to {2**32 - 1}")
    return int(text)


def _price(text: str) -> float:
    try:
        nats = float(text)
    except ValueError:
        nats = math.nan
    if not 0 < nats < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no price; give a number of nats above 0, such as 0.1")
    return nats


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"{text!r} is no list; name one or more, with commas between them")
    return names


def _option(text: str) -> tuple[str, str | int]:
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is no option; say KEY=VALUE, such as size=6")
    return key, int(value) if value.lstrip("-").isdigit() else value


def _age(text: str) -> float:
    """Seconds."""
    units = {"h": 3600.0, "d": 86400.0, "w": 604800.0}
    if len(text) < 2 or not text[:-1].isdigit() or text[-1] not in units:
        raise argparse.ArgumentTypeError(f"{text!r} is no age; say 12h, 30d or 8w")
    return int(text[:-1]) * units[text[-1]]


def _flag(name: str) -> str:
    return "--with" if name == "options" else "--" + name.replace("_", "-")


def no_such(what: str, name: str, known: Iterable[str]) -> str:
    return f"no {what} {name!r}{_near(name, known)} (there are: {', '.join(known) or 'none'})"


def _near(name: str, known: Iterable[str]) -> str:
    import difflib

    near = difflib.get_close_matches(name, list(known), n=2, cutoff=0.4)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"{error.strerror}; free some, and the same command again goes on where this one stopped"
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"cannot use {error.filename}: {error.strerror}; name a path that can be read and written"
    text = " ".join(str(error.args[0] if isinstance(error, KeyError) and error.args else error).split())
    ours = type(error).__module__.partition(".")[0] in ("tasks", "probing", "interventions", "worldprobe")
    known = (ours or isinstance(error, (ValueError, KeyError, OSError))) and text
    return text if known else f"{type(error).__name__}: {text or 'no message'} (--debug shows where)"


def _check_cells(check: dict) -> tuple[str, ...]:
    ours = _number(check["ours"])
    if check.get("ci_low") is not None:
        ours += f" [{_number(check['ci_low'])}, {_number(check['ci_high'])}]"
    return (str(check.get("id", "")), check["what"], _number(check["paper"]), ours, _number(check["pass_mark"]),
            "yes" if check["pass"] else "NO")


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "-" if value is None else str(value)


def _n_parameters(file: Path) -> int:
    with open(file, "rb") as opened:
        header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")


def _card_line(card: Path) -> str:
    if not card.exists():
        return "(no card)"
    text = card.read_text(encoding="utf-8")
    if text.startswith("---"):
        text = text.split("---", 2)[-1]  # Hugging Face keeps its metadata between two such lines
    paragraph = next((p for p in text.split("\n\n") if p.strip() and not p.lstrip().startswith(("#", "|", "```"))), "")
    return " ".join(paragraph.split()).split(". ")[0].rstrip(".")


def print_table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=SIMPLE, pad_edge=False)
    for row in rows:
        table.add_row(*map(plain, row))
    width = None if sys.stdout.isatty() else 160  # a file or a pipe has no width
    Console(markup=False, highlight=False, emoji=False, width=width).print(table)
