"""`python -m recipes stock`: everything that is stocked, made by one command that survives being cut off.

python -m recipes stock --data ROOT --tier gpu --minutes 15        # and again, until nothing is left
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ddhub.artifact import bundled
from ddhub.cli.printing import print_table, say
from ddhub.errors import DDHubError, UsageError
from ddhub.training import ranks
from ddhub.training.devices import resolve_device
from recipes.run.options import METHODS
from recipes.run.plan import MACHINES
from recipes.stock.deadline import Deadline
from recipes.stock.runner import StockRun
from recipes.stock.steps import Costs
from recipes.stock.table import TIERS, only, read_table
from recipes.stock.workshop import Workshop


@click.command()
@click.argument("file", type=click.Path(path_type=Path), default=METHODS / "stock.toml", metavar="[FILE.toml]")
@click.option("--tier", type=click.Choice(TIERS), help="scale of the presets; that of the device if not given")
@click.option("--only", "names", metavar="NAME", multiple=True, help="this artifact alone, or several")
@click.option(
    "--minutes", type=click.FloatRange(min=0, min_open=True), help="stop before these are over, to go on later"
)
@click.option("--dry-run", is_flag=True, help="print the plan and stop")
@click.option("--machine", type=click.Choice(list(MACHINES)), help="with --dry-run: seconds of this one")
@click.option("--replace", is_flag=True, help="stock what is made even if it is no better than what is stocked")
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/stock"), help="folder of the artifacts")
@click.option("--work", type=click.Path(path_type=Path), help="folder of the stages; OUT/work if not given")
@click.option("--stock", type=click.Path(path_type=Path), help="folder of what is stocked; cards/ if not given")
@click.option("--data", metavar="ROOT", help="root of the real data (or DDHUB_DATA)")
@click.option("--device", default="auto", metavar="auto", help="auto, cpu, cuda, cuda:1, ...")
@click.option("--precision", default="auto", metavar="auto", help="auto, bf16, fp32 or exact")
@click.option("--exact", "precision", flag_value="exact", help="the same numbers every time, slower on a GPU")
def stock(
    file: Path,
    tier: str | None,
    names: tuple[str, ...],
    minutes: float | None,
    dry_run: bool,
    machine: str | None,
    replace: bool,
    out: Path,
    work: Path | None,
    stock: Path | None,
    data: str | None,
    device: str,
    precision: str,
) -> None:
    """Make all that a table lists, the most valuable first: artifacts, students, baselines, cards.

    The same command goes on from where it was cut off. What is better than what is stocked takes its place.
    """
    if ranks.world() > 1:
        raise UsageError(
            "a stock run is one process; start it without torchrun, or several of them with --only and --out"
        )
    if machine and not dry_run:
        raise UsageError("--machine says how long a run would take on another machine; add --dry-run")
    if stock is None and not bundled.CHECKOUT:
        raise UsageError("an installed ddhub has no stock of its own to add to; give a folder with --stock")
    shelf = stock or bundled.BUNDLED
    tier = tier or ("gpu" if resolve_device(device).type == "cuda" else "cpu")
    stocked = {
        x.name for top in {shelf, bundled.BUNDLED} for x in bundled.folders_of_results(top) if bundled.has_data(x)
    }
    items, skipped = read_table(file, tier, stocked)
    table = {item.name: item for item in items}
    options: dict[str, Any] = {"root": data, "device": device, "precision": precision}
    workshop = Workshop(table, out=out, work=work or out / "work", stock=shelf, replace=replace, **options)
    costs = Costs(table, (machine or "") if dry_run else "h100", **options)
    run = StockRun(only(items, names), table, workshop, costs)
    for line in skipped:
        say(line)
    if dry_run:
        print_table(("artifact", "stage", ">images", ">TFLOP", ">seconds"), run.plan())
        return
    with workshop.alone():
        try:
            with Deadline(minutes) as deadline:
                run.go()
        except KeyboardInterrupt:
            if not deadline.over:
                raise
            count, left = run.left()
            say(f"stopped in time: {count} of {len(run.steps)} steps left, {left}; the same command goes on from there")
        print_table(("artifact", "steps done", "state"), run.rows())
    if run.failed:
        raise DDHubError(
            f"{len(run.failed)} of {len(run.items)} failed, {', '.join(run.failed)}; their lines above say why"
        )
