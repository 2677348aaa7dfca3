"""Which model files a training session keeps, and what ends it early."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field, model_validator

from deepseg.config.settings import Count, Name, NotNegative, Settings
from deepseg.config.validation.validator_error import invalid

Metric: TypeAlias = Annotated[str, Field(min_length=1, max_length=200)]


class Checkpoints(Settings):
    """Model files kept beside `last.save` and `best.save`."""

    every: Count | None = Field(None, description="Keep also the file of every N-th epoch.")
    name: Name = Field(
        "epoch-{epoch:04d}",
        description="Name of these files: {epoch} counts from 1, {score} is what `best` is chosen "
        "by, such as `{epoch:03d}-{score:.3f}`.",
    )
    seconds: NotNegative = Field(
        60.0,
        description="After so many seconds, the end of a sub-epoch is kept too: in `running.save`, "
        "from which the session goes on if it is stopped in the middle of an epoch.",
    )
    best: Metric | None = Field(
        None,
        description="What `best.save` is chosen by, named as in metrics.jsonl, such as "
        "`validation_volumes/dice/lesion` or `validation_samples/loss`. Default: `dice/mean` of "
        "volumes, or of samples if no volumes are validated.",
    )

    @model_validator(mode="after")
    def _names_files(self) -> Checkpoints:
        try:
            names = {self.name.format(epoch=epoch, score=0.5) for epoch in (1, 2)}
        except (LookupError, ValueError, AttributeError):
            names = set()
        if len(names) != 2:
            raise invalid(
                "checkpoint-name",
                got=f"the name {self.name!r}",
                expected="a file name with {epoch}, and perhaps {score}",
                fix="write it as in {epoch:03d}-{score:.3f}",
            )
        return self


class EarlyStopping(Settings):
    """Training ends when it has stopped getting better."""

    patience: Count = Field(10, description="Scores in a row without improvement.")
    min_improvement: NotNegative = Field(0.0, description="Smaller gains do not count.")
    metric: Metric | None = Field(None, description="Default: that of `best.save`.")


class StopAt(Settings):
    """Training ends when it is good enough."""

    metric: Metric = Field(description="Named as in metrics.jsonl.")
    value: float = Field(description="To be reached; losses and distances from above.")
