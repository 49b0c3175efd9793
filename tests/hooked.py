"""HookedTransformer, with which tests compare ours; version 4 of TransformerLens has none, and they are skipped."""

from typing import Any

import pytest

from grokinterp.models.transformer import MAJOR

if MAJOR < 4:
    from transformer_lens import HookedTransformer, HookedTransformerConfig
else:
    HookedTransformer: Any = object
    HookedTransformerConfig: Any = object

needs_hooked_transformer = pytest.mark.skipif(
    MAJOR >= 4, reason="compares with a HookedTransformer, which version 4 of TransformerLens does not have"
)

__all__ = ["HookedTransformer", "HookedTransformerConfig", "needs_hooked_transformer"]
