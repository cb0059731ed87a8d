from __future__ import annotations

import warnings

import pytest
import torch

from codir.errors import DataError, ModelError
from codir.models.classes import align_logits, match_classes, require_regression


def test_order_and_case_do_not_matter():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = match_classes(
            ["entailment", "neutral", "contradiction"], {0: "CONTRADICTION", 1: "Entailment ", 2: "neutral"}
        )
    assert found == (1, 2, 0)
    logits = torch.tensor([[10.0, 11.0, 12.0], [20.0, 21.0, 22.0]])
    assert align_logits(logits, found).tolist() == [[11.0, 12.0, 10.0], [21.0, 22.0, 20.0]]


def test_identity_copies_nothing():
    logits = torch.zeros(2, 3)
    assert align_logits(logits, (0, 1, 2)) is logits


def test_unnamed_models_are_matched_by_order_with_a_warning():
    with pytest.warns(UserWarning, match="bad = LABEL_0, good = LABEL_1"):
        assert match_classes(["bad", "good"], {0: "LABEL_0", 1: "LABEL_1"}) == (0, 1)
    with pytest.warns(UserWarning, match="0 = bad"):
        assert match_classes(["0", "1"], {0: "bad", 1: "good"}) == (0, 1)


def test_numbers_on_both_sides_need_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert match_classes(["0", "1"], {0: "LABEL_0", 1: "LABEL_1"}) == (0, 1)
        assert match_classes(["LABEL_1", "LABEL_0"], {0: "LABEL_0", 1: "LABEL_1"}) == (1, 0)


def test_a_label_that_the_model_lacks():
    with pytest.raises(DataError, match=r"'Neutrl'.*did you mean 'neutral'.*codir finetune"):
        match_classes(["entailment", "Neutrl"], {0: "entailment", 1: "neutral"})
    with pytest.raises(DataError, match="'c'"):
        match_classes(["a", "b", "c"], {0: "a", 1: "b"})
    with pytest.raises(DataError, match="'0'"):
        match_classes(["0", "1", "2"], {0: "LABEL_0", 1: "LABEL_1"})


def test_a_class_that_the_data_lacks():
    with pytest.raises(ModelError, match=r"the class 'neutral'.*codir finetune"):
        match_classes(["entailment"], {0: "entailment", 1: "neutral"})


def test_two_classes_of_one_name():
    with pytest.raises(ModelError, match="two classes"):
        match_classes(["a", "b"], {0: "a", 1: "A"})


def test_regression_needs_one_output():
    require_regression(1)
    with pytest.raises(ModelError, match="3 outputs"):
        require_regression(3)
