"""The places and commands of `tests/commands`."""

from tests.commands.conftest import (  # noqa: F401
    begin,
    command,
    model,
    place,
    refused,
    run,
    same_weights,
    start,
    template,
    trained,
)
