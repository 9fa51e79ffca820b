from __future__ import annotations

import numpy as np
import pytest

from herohe_model.model.calibration import (
    NEGATIVE,
    POSITIVE,
    UNCERTAIN,
    CallRule,
    around,
    sigmoid,
    slide_logit,
)

RULE = CallRule(
    positive_above=0.8, negative_below=0.2, positive_chosen="for the test", negative_chosen="for the test"
)


def test_a_call_needs_both_ends_of_the_spread_beyond_its_threshold() -> None:
    assert RULE.call(0.801, 0.9) == POSITIVE
    assert RULE.call(0.8, 0.99) == UNCERTAIN
    assert RULE.call(0.05, 0.199) == NEGATIVE
    assert RULE.call(0.05, 0.2) == UNCERTAIN


def test_no_slide_can_be_called_both() -> None:
    with pytest.raises(ValueError, match="negative_below lies above positive_above"):
        CallRule(positive_above=0.2, negative_below=0.3, positive_chosen="", negative_chosen="")


def test_a_slides_logit_is_the_mean_and_its_error_adds_up_members_and_composites() -> None:
    logits = np.array([[1.0, 3.0], [2.0, 4.0], [3.0, 5.0]])
    found = slide_logit(logits)
    assert found.value == pytest.approx(3.0)
    # Members' means 2 and 4: variance 2 over 2. Composites' means 2, 3, 4: variance 1 over 3.
    assert found.error == pytest.approx(np.sqrt(2 / 2 + 1 / 3))


def test_one_composite_of_one_member_has_no_spread_to_tell_of() -> None:
    assert slide_logit([[0.7]]).error == 0.0


def test_the_fixed_bit_stays_and_the_others_are_put_in_order_around_it() -> None:
    q = np.array([[0.5, 0.4, 0.3, 0.6], [0.1, 0.4, 0.5, 0.45]])
    assert around(q, 1).tolist() == [[0.4, 0.4, 0.4, 0.6], [0.1, 0.4, 0.5, 0.5]]


def test_the_logistic_function_does_not_overflow() -> None:
    assert sigmoid([-1e9, 0.0, 1e9]).tolist() == pytest.approx([0.0, 0.5, 1.0], abs=1e-20)
