"""A search over training settings."""

from __future__ import annotations

from dataclasses import dataclass

from fattr.config.checks import check_positive
from fattr.config.train import TrainConfig
from fattr.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneConfig(TrainConfig):
    """Search for settings to train with; every other flag holds for all trials."""

    output: str
    """Folder or s3:// prefix for the trials and what came of them; again: goes on with them."""
    space: str
    """TOML file that says what to try, or a shipped one: rate, recipe. See docs/tuning.md."""
    trials: int
    """How many settings to try; a larger number than before adds trials."""
    concurrent: int | None = None
    """Trials at once; else one a core, or as many as fit on the GPUs."""
    gpus_per_trial: float = 0.0
    """Share of a GPU that one trial holds, as 0.5, or 1; 0 trains on CPUs."""
    grace_epochs: int = 1
    """No trial is stopped before it had this many epochs."""
    reduction: int = 3
    """At each rung, one of this many trials goes on; rungs are grace x reduction^n epochs."""

    def __post_init__(self) -> None:
        TrainConfig.__post_init__(self)
        for flag in ("trials", "concurrent", "grace_epochs"):
            check_positive(f"--{flag.replace('_', '-')}", getattr(self, flag))
        if not 0 <= self.gpus_per_trial <= 1:
            raise UsageError(f"--gpus-per-trial must be in [0, 1]: {self.gpus_per_trial}")
        if self.reduction < 2:
            raise UsageError(f"--reduction must be 2 or more: {self.reduction}")
