"""Names for the arrays that appear in every file.

Shapes use three letters: `n` parameters, `m` residuals, `k` columns of a basis. Arrays
of many fits have an axis of lanes behind these.
"""

from jaxtyping import Array, Bool, Float, Int


Scalar = Float[Array, "..."]
Count = Int[Array, "..."]
Flag = Bool[Array, "..."]
Vector = Float[Array, "n ..."]
Matrix = Float[Array, "n n ..."]
