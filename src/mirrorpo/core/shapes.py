"""Shapes as types: B completions, T completion tokens, S prompt tokens, V vocabulary, D hidden width.

The aliases are checked at run time in tests only (`tests/conftest.py` installs jaxtyping's import
hook); in production they are free.
"""

from typing import TypeAlias

from jaxtyping import Bool, Float, Int
from torch import Tensor

PerToken: TypeAlias = Float[Tensor, "B T"]
PerCompletion: TypeAlias = Float[Tensor, " B"]
PerPosition: TypeAlias = Float[Tensor, " N"]
TokenMask: TypeAlias = Bool[Tensor, "B T"]
TokenIds: TypeAlias = Int[Tensor, "B T"]
GroupIds: TypeAlias = Int[Tensor, " B"]
Vocabulary: TypeAlias = Float[Tensor, "*positions V"]
Scalar: TypeAlias = Float[Tensor, ""]
