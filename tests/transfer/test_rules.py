"""Rules of a transfer from Python: values that no rule has are refused, all at once."""

import pytest

from deepseg.errors import DeepsegError
from deepseg.transfer.rules import TransferRules

WORDS = 'words in a tuple, such as ("1", "normal.2-3", "head")'
PAIRS = "a dictionary of words, new ones to older ones"
MM = "three numbers of mm, above 0"


@pytest.mark.parametrize(
    ("rules", "problem"),
    [
        (
            {"depth": "first_common"},
            "got depth 'first_common'; expected by-name, first-common or identity; fix: correct "
            "the word; did you mean 'first-common'?",
        ),
        (
            {"width": "nettonet"},
            "got width 'nettonet'; expected overlap or net2net; fix: correct the word; did you "
            "mean 'net2net'?",
        ),
        ({"kernels": 3}, "got kernels 3; expected same or centre; fix: correct the word"),
        ({"layers": "all"}, f"got layers 'all'; expected {WORDS}; fix: correct it"),
        ({"layers": (1, 2)}, f"got layers (1, 2); expected {WORDS}; fix: correct it"),
        ({"layers": 5}, f"got layers 5; expected {WORDS}; fix: correct it"),
        ({"pathways": ["a=b"]}, f"got pathways ['a=b']; expected {PAIRS}; fix: correct it"),
        ({"channels": {"T1": 1}}, f"got channels {{'T1': 1}}; expected {PAIRS}; fix: correct it"),
        ({"layer_map": "a=b"}, f"got layer_map 'a=b'; expected {PAIRS}; fix: correct it"),
        ({"classes": None}, f"got classes None; expected {PAIRS}; fix: correct it"),
        ({"spacing_mm": 2.0}, f"got spacing_mm 2.0; expected {MM}; fix: correct it"),
        ({"spacing_mm": (1, 2)}, f"got spacing_mm (1, 2); expected {MM}; fix: correct it"),
        ({"spacing_mm": (1, 2, 0)}, f"got spacing_mm (1, 2, 0); expected {MM}; fix: correct it"),
        (
            {"min_match": 1.5},
            "got min_match 1.5; expected a share between 0 and 1; fix: correct it",
        ),
        (
            {"min_match": True},
            "got min_match True; expected a share between 0 and 1; fix: correct it",
        ),
    ],
)
def test_a_value_that_no_rule_has_is_refused(rules, problem):
    with pytest.raises(DeepsegError) as refusal:
        TransferRules(**rules)
    assert str(refusal.value) == f"[transfer-rules] {problem}"


def test_all_wrong_values_are_told_together():
    with pytest.raises(DeepsegError) as refusal:
        TransferRules(layers="all", width="wide", min_match="half")
    assert [problem.got for problem in refusal.value.problems] == [
        "layers 'all'",
        "width 'wide'",
        "min_match 'half'",
    ]


def test_lists_are_taken_for_tuples():
    rules = TransferRules(layers=["1", "head"], spacing_mm=[1, 1, 2])
    assert rules == TransferRules(layers=("1", "head"), spacing_mm=(1.0, 1.0, 2.0))
    assert TransferRules(layers=["all"], width="net2net").keeps_function
