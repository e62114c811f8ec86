"""The recipes: a method is one file here, `recipes/<name>.py`, and folders hold what methods share.

A method has a docstring, a frozen `Config`, `PRESETS`, `SMOKE`, `plan(cfg, source, run)` and `distill(cfg, run)`:

    def distill(cfg: Config, run: Run) -> Artifact:
        source = run.source(cfg.dataset, "train")
        pick = run.stage("select", lambda: {"rows": choose(source, cfg)})
        return run.write(...)

`run.stage(name, fn)` saves what `fn` returned in the work folder and returns it next time: that is resume, `--until`
and progress in one. A stage is keyed by the settings it depends on, so a changed setting is never served stale.
`run.stages([(name, fn, settings), ...])` does so for computations that do not need one another; under torchrun the
ranks share them, while what one `run.stage` computes is computed by rank 0 and handed to all. `distill` itself runs on
every rank, up to `run.write`, from which rank 0 alone comes back.
"""
