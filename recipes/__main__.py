"""Command line of the recipes: `python -m recipes METHOD OUT [options]`.

    torchrun --nproc-per-node 4 -m recipes METHOD OUT [options]

does the same in four processes, which share the independent units of each stage; the artifact is the same. If one of
them fails, all end, and the same command goes on from the units that were finished (see `recipes.run.stages`). The
commands and their options come from the recipes themselves (see `recipes.discover`).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import click

from ddhub.artifact import bundled
from ddhub.artifact.encoding import name_of
from ddhub.artifact.manifest import Manifest
from ddhub.cli.program import guarded
from ddhub.errors import UsageError, unknown
from ddhub.io.rules import require
from ddhub.training import ranks
from recipes.run import budget, plan, search
from recipes.run.options import configure, discover, option_fields
from recipes.run.presets import Presets
from recipes.run.run import Finished, Run
from recipes.run.straight_through import require_lossy
from recipes.stock.command import stock

log = logging.getLogger("recipes")


def _execute(recipe: ModuleType, values: dict[str, Any]) -> None:
    out = Path(values.pop("out"))
    run_options = {str(x.name): values.pop(str(x.name)) for x in _run_options(recipe) if x.name in values}
    if run_options["machine"] and not run_options["dry_run"]:
        raise click.UsageError("--machine says how long a run would take on another machine; add --dry-run")
    cfg = configure(recipe, run_options["preset"], values, run_options["quick"])
    auto, size, until = run_options["encoding"] == search.AUTO, run_options["bytes"], run_options["until"] or ""
    if auto:
        search.require_real(recipe)
    if auto and not size:
        raise click.UsageError("--encoding auto compares encodings at as many bytes; add --bytes N")
    run = Run(
        recipe,
        cfg,
        out,
        preset=run_options["preset"],
        root=run_options["data"],
        device=run_options["device"],
        precision=run_options["precision"],
        until=None if run_options["dry_run"] else until or None,
        work=Path(run_options["work"]) if run_options["work"] else None,
        encoding="png" if auto else run_options["encoding"],
        label_bits=int(run_options["label_bits"]),
    )
    proxy = _proxy(run_options) if auto else None
    if not proxy:
        require_lossy(cfg, run.encoding)
    if run_options["dry_run"]:
        if ranks.rank() == 0:
            click.echo(_planned(recipe, cfg, run, size, proxy, run_options["machine"] or ""))
        return
    if not size:
        _check(recipe, cfg, run, until)
    with run.logged(), ranks.group():
        try:
            if proxy:
                cfg = run.cfg = search.found(recipe, cfg, run, size, proxy)
            elif size:
                cfg = run.cfg = budget.sized(recipe, cfg, run, size)
            if size:  # what is checked depends on the number of images
                _check(recipe, cfg, run, until)
            artifact = recipe.distill(cfg, run)
        except Finished as stage:
            if ranks.rank() == 0:
                click.echo(f"stopped after stage {stage}; the same command without --until goes on from there")
            return
    if until:  # of a method whose plan does not list its stages
        raise unknown("stage", until, run.seconds)
    m = artifact.manifest
    click.echo(f"{out}: digest {m.digest}, content {m.content}, {m.stored_bytes:,} stored bytes")
    for line in compared(m):
        click.echo(line)


def _check(recipe: ModuleType, cfg: Any, run: Run, until: str) -> None:
    """Find out before anything is computed what cannot be: settings, stages, and test images that teachers need.

    Raises:
        UsageError, SourceError: whatever the run would come to later.
    """
    if hasattr(recipe, "students"):
        recipe.students(cfg)
    stages = [step.stage for step in plan.planned(recipe, cfg, run).steps]
    if until and stages and until not in stages:
        raise unknown("stage", until, stages)
    if any(stage.startswith(("teacher-", "experts")) for stage in stages):
        source = run.source(cfg.dataset, "train", getattr(cfg, "size", None) or None)
        run.source(cfg.dataset, "test", source.images.shape[2])


def _proxy(run_options: Mapping[str, Any]) -> search.Proxy:
    """What a search for an encoding is made with. UsageError for an encoding that is none."""
    named = {key: run_options[f"proxy_{key}"] for key in ("steps", "seeds")}
    candidates = tuple(run_options["candidates"].split(","))
    return search.Proxy(model=run_options["proxy"], candidates=candidates, **named)


def _planned(recipe: ModuleType, cfg: Any, run: Run, size: str | None, proxy: search.Proxy | None, machine: str) -> str:
    """What `--dry-run` prints."""
    if size and proxy:
        cfg, before = search.planned(recipe, cfg, run, size, proxy, machine)
        taken = f"as if {name_of(run.encoding)} were taken, the candidate of the most images: {cfg.ipc} a class"
        return f"{plan.text(recipe, cfg, run, machine, before)}\n{taken}"
    cfg = run.cfg = budget.sized(recipe, cfg, run, size) if size else cfg
    return plan.text(recipe, cfg, run, machine)


def compared(m: Manifest) -> list[str]:
    """Whether artifacts at hand have the content of a new one; of a namesake also that it has not."""
    known = [entry.manifest for entry in bundled.at_hand().values()]
    same = [x for x in known if x.content == m.content]
    lines = [f"the same content as {x.name}, digest {x.digest}" for x in same]
    return lines + [
        f"other content than {x.name}, digest {x.digest}" for x in known if x.name == m.name and x not in same
    ]


class Method(click.Command):
    """A method's command: its help has the run's options, the presets, then the settings with their defaults."""

    def __init__(self, name: str, recipe: ModuleType) -> None:
        settings = [_setting(*row) for row in option_fields(recipe)]
        self.run_options = _run_options(recipe)
        super().__init__(name, params=[*self.run_options, *settings], callback=partial(_execute_named, recipe))
        self.recipe, self.settings = recipe, settings
        self.help = (recipe.__doc__ or "").partition("\n\n")[0]

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the three parts."""
        with formatter.section("Run"):
            formatter.write_dl([record for option in self.run_options if (record := option.get_help_record(context))])
        with formatter.section("Presets"):
            formatter.write_dl(preset_lines(self.recipe.PRESETS))
        with formatter.section("Settings, with their defaults"):
            rows = [(f"{option.opts[0]} {option.metavar}", option.help or "") for option in self.settings]
            formatter.write_dl(rows, col_max=34, col_spacing=1)


def _setting(flag: str, name: str, default: Any, text: str) -> click.Option:
    if isinstance(default, tuple):

        def split(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, ...] | None:
            return None if value is None else tuple(part for part in value.split(",") if part)

        return click.Option([flag, name], callback=split, help=text, metavar=",".join(default))
    if isinstance(default, bool):
        return click.Option([flag, name], callback=_truth, help=text, metavar=str(default).lower())
    return click.Option([flag, name], type=type(default), help=text, metavar=str(default))


def _truth(_: click.Context, option: click.Parameter, value: str | None) -> bool | None:
    """What an option of true or false says; click takes no word at all for false."""
    if value is None:
        return None
    require(value.lower() in ("true", "false"), option.opts[0], value, "true or false")
    return value.lower() == "true"


def preset_lines(presets: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What `--help` says of presets: rows by data set, variants and tiers; of a plain dict its names."""
    if not isinstance(presets, Presets):
        return [("names", ", ".join([*presets, "smoke"]))]
    sizes: dict[str, list[str]] = {}
    for row in presets.rows:
        dataset, _, ipc = row.rpartition("-ipc")
        sizes.setdefault(dataset, []).append(ipc)
    rows = "; ".join(f"{dataset}-ipc{ipcs[0]}" + "".join(f", {x}" for x in ipcs[1:]) for dataset, ipcs in sizes.items())
    forms = [change.name.format(row="ROW", tier="[-TIER]") for change in presets.variants.values()]
    lines = [("ROW", rows)]
    lines += [("variants", ", ".join(forms))] if forms else []
    lines += [("ROW-TIER", ", ".join(presets.tiers))] if presets.tiers else []
    return [*lines, ("smoke", "all stages, as small as can be; --presets lists all names")]


def _print_presets(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value and isinstance(context.command, Method):
        for name in (*context.command.recipe.PRESETS, "smoke"):
            click.echo(name)
        context.exit()


_RUN: list[click.Parameter] = [
    click.Argument(["out"], type=click.Path()),
    click.Option(["--preset"], metavar="NAME", help="a row of settings, see Presets"),
    click.Option(["--presets"], is_flag=True, is_eager=True, expose_value=False, callback=_print_presets, hidden=True),
    click.Option(["--data"], type=click.Path(), metavar="ROOT", help="root of the real data (or DDHUB_DATA)"),
    click.Option(["--device"], default="auto", metavar="auto", help="auto, cpu, cuda, cuda:1, ..."),
    click.Option(
        ["--precision"], default="auto", metavar="auto", help="auto, bf16, fp32; exact or --exact: repeatable"
    ),
    click.Option(["--exact", "precision"], flag_value="exact", hidden=True),
    click.Option(["--encoding"], default="png", metavar="png", help="of images: png, webp:30, avif:50/20, ..."),
    click.Option(["--label-bits"], default="16", type=click.Choice(["16", "8", "4"]), metavar="16", help="16, 8 or 4"),
    click.Option(["--bytes"], metavar="N", help="as many images as N bytes hold (or N/class)"),
    click.Option(["--quick"], is_flag=True, help="minutes, not hours; the log says what is cut"),
    click.Option(["--until"], metavar="STAGE", help="stop after this stage"),
    click.Option(["--work"], type=click.Path(), metavar="DIR", help="folder of the stages; OUT.work if not given"),
    click.Option(["--dry-run"], is_flag=True, help="print the plan and stop; --machine h100: its seconds there"),
    click.Option(["--machine"], metavar="NAME", hidden=True),
]


_SEARCH: list[click.Parameter] = [
    click.Option(
        ["--candidates"], default=",".join(search.CANDIDATES), metavar="LIST", help="what --encoding auto chooses from"
    ),
    click.Option(
        ["--proxy"],
        default="",
        metavar="MODEL",
        help="its student, on held-out training images; convnet3-w32, --proxy-steps 400, --proxy-seeds 1",
    ),
    click.Option(["--proxy-steps"], default=400, hidden=True),
    click.Option(["--proxy-seeds"], default=1, hidden=True),
]


def _run_options(recipe: ModuleType) -> list[click.Parameter]:
    """What every run may be told; those of a search for an encoding where a method stores real images."""
    return [*_RUN, *(_SEARCH if hasattr(recipe, "stored") else [])]


def _execute_named(recipe: ModuleType, **values: Any) -> None:
    _execute(recipe, values)


class Methods(click.Group):
    """The commands; of a method that another's presets have, an error says which."""

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """As click's. UsageError for the name of such a method."""
        for command in self.commands.values():
            if name in self.commands or not isinstance(command, Method):
                continue
            if preset := next((x for x in command.recipe.PRESETS if x.startswith(f"{name}-")), ""):
                line = f"python -m recipes {command.name} OUT --preset {preset}"
                raise UsageError(f"method {name!r} is among the presets of {command.name}: {line}")
        return super().get_command(context, name)


def group() -> click.Group:
    """The command group, one command a recipe, and the one that makes all that is stocked."""
    return Methods(
        "recipes",
        commands={"stock": stock, **{name: Method(name, recipe) for name, recipe in discover().items()}},
        help="Make a distilled dataset: METHOD OUT [options]; or all that are stocked: stock [options].",
    )


def main() -> None:
    """Entry point: one-line errors, exit code 2 for usage, 1 for failure, 130 for an interrupt."""
    line = f"%(asctime)s {f'rank {ranks.rank()}: ' if ranks.world() > 1 else ''}%(message)s"
    logging.basicConfig(level=logging.INFO, format=line, datefmt="%H:%M:%S", stream=sys.stderr)
    interrupted = "interrupted; the same command again goes on from the last finished stage"
    ranks.leave(guarded(group(), "python -m recipes", interrupted))


if __name__ == "__main__":
    main()
