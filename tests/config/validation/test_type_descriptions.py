"""What a model accepts, in plain words."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, Optional, Union

import pytest
from pydantic import BaseModel, Field, PositiveInt

from deepseg.config.validation.type_descriptions import schema_type, words

Count = Annotated[int, Field(ge=1, le=99, strict=True)]
Share = Annotated[float, Field(ge=0, lt=1)]
Padding = Literal["none", "zero", "mirror"]


class Gaussian(BaseModel):
    mean: float
    width: float = Field(1.0, alias="deviation")


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (bool, "true or false"),
        (int, "a whole number"),
        (float | None, "a number"),
        (str, "text"),
        (Path, "a path"),
        (PositiveInt, "a whole number above 0"),
        (Count, "a whole number from 1 to 99"),
        (Share, "a number of at least 0 and below 1"),
        (Annotated[float, Field(gt=0, le=1)], "a number above 0 and at most 1"),
        (Annotated[int, Field(le=7)], "a whole number of at most 7"),
        (Annotated[int, Field(multiple_of=4)], "a whole number divisible by 4"),
        (Annotated[Annotated[int, Field(ge=2)] | None, Field(lt=5)],
         "a whole number of at least 2 and below 5"),
        (Annotated[str, Field(min_length=1)], "text of one or more characters"),
        (Annotated[str, Field(max_length=8)], "text of at most 8 characters"),
        (Annotated[str, Field(min_length=2, max_length=8)], "text of 2 to 8 characters"),
        (Padding, "one of: none, zero, mirror"),
        (Literal["auto"], "the word auto"),
        (list[int], "a list of whole numbers"),
        (tuple[Padding, ...], "a list of entries, each one of: none, zero, mirror"),
        (Sequence[bool], "a list of values that are true or false"),
        (tuple[Share, Share], "a list of 2 numbers of at least 0 and below 1"),
        (tuple[int, str], "a list of 2 entries: a whole number, text"),
        (list[tuple[int, int, int]], "a list of lists of 3 whole numbers"),
        (Annotated[list[str], Field(min_length=1)], "a list of one or more texts"),
        (Annotated[list[Path], Field(min_length=3)], "a list of at least 3 paths"),
        (Annotated[list[int], Field(min_length=3, max_length=3)], "a list of 3 whole numbers"),
        (Annotated[list[int], Field(max_length=4)], "a list of at most 4 whole numbers"),
        (dict[str, Path], "a block that maps texts to paths"),
        (list[Mapping[int, float]], "a list of blocks that map whole numbers to numbers"),
        (Gaussian, "a block with the keys mean, deviation"),
        (list[Gaussian], "a list of blocks with the keys mean, deviation"),
        (int | str, "a whole number, or text"),
        (Optional[Union[int, str]], "a whole number, or text"),  # noqa: UP007, UP045
        (Literal["auto"] | Count, "a whole number from 1 to 99, or the word auto"),
        (tuple[Padding, ...] | Padding, "one of: none, zero, mirror, or a list of these"),
        (Share | tuple[Share, Share],
         "a number of at least 0 and below 1, or a list of 2 of these"),
        (Count | list[int], "a whole number from 1 to 99, or a list of whole numbers"),
        (list[int | list[int]], "a list of entries, each a whole number, or a list of these"),
        (int | tuple[int, str], "a whole number, or a list of 2 entries: a whole number, text"),
        (complex, ""),
    ],
)  # fmt: skip
def test_a_type_is_said_in_plain_words(annotation, expected):
    assert words(schema_type(annotation)) == expected


def test_the_entries_of_a_list_have_their_own_kinds():
    assert schema_type(tuple[int, str]).below(1) == schema_type(str)
    assert schema_type(tuple[int, ...]).below(1) == schema_type(int)
