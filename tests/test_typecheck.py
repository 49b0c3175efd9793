"""The shape checks that conftest.py installs: they refuse wrong shapes, in every test anew."""

import pytest
import torch
from jaxtyping import TypeCheckError

from grokinterp.measures import gini


@pytest.mark.parametrize("times", [1, 2])
def test_the_first_call_of_a_test_is_checked(times):
    with pytest.raises(TypeCheckError):
        gini(torch.ones(2, 2))
