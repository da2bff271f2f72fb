"""Ranges of option values, stated once as types; ``compose`` checks them before anything loads."""

from typing import Annotated

from pydantic import Field

Count = Annotated[int, Field(ge=1)]
"""A whole number of at least 1: layers, heads, widths, nodes."""
Whole = Annotated[int, Field(ge=0)]
"""A whole number of at least 0: seeds, hidden layers."""
Rate = Annotated[float, Field(ge=0, lt=1)]
"""A probability below 1: dropout."""
Share = Annotated[float, Field(ge=0, le=1)]
"""A share or mixing weight in [0, 1]."""
Positive = Annotated[float, Field(gt=0)]
"""A real number above 0: temperatures, exponents, seconds."""
NonNegative = Annotated[float, Field(ge=0)]
"""A real number of at least 0."""
Percentile = Annotated[float, Field(ge=0, lt=0.5)]
"""A share below a half, cut off at each end."""
Bits = Annotated[int, Field(ge=2, le=16)]
"""Width of an integer code."""
