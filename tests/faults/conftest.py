"""The places and commands of `tests/commands`."""

from tests.commands.conftest import (  # noqa: F401
    begin,
    command,
    model,
    place,
    refused,
    same_weights,
    template,
    trained,
)
