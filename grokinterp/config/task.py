"""TaskConfig: the operation to learn, and how its inputs are split into training and test inputs."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from grokinterp.config.checks import (
    MAX_BITS,
    MAX_MODULUS,
    STRICT,
    Fields,
    check_fields,
    is_prime,
    require,
    require_seed,
)

_Arithmetic = Literal["add", "subtract", "multiply", "multiply_nonzero", "divide"]
_Polynomial = Literal["x^2+y^2", "x^2+xy+y^2", "x^2+xy+y^2+x", "x^3+xy", "x^3+xy^2+y"]
_Permutation = Literal["s5_xy", "s5_xyx", "s5_xyx^-1"]
Operation = Literal[_Arithmetic, _Polynomial, _Permutation, "parity"]
OPERATIONS: tuple[str, ...] = get_args(Operation)
S5_OPERATIONS: tuple[str, ...] = get_args(_Permutation)


@dataclass(frozen=True)
class TaskConfig(Fields):
    """The operation to learn and the split of its inputs into training and test sets; all inputs are evaluated.

    Example:
        >>> TaskConfig(operation="subtract", p=59).title
        'subtract mod 59'
    """

    __pydantic_config__: ClassVar[Any] = STRICT

    operation: Operation = "add"
    """operation mod p (`multiply` includes zeros; `multiply_nonzero` excludes them; `divide` excludes b = 0),
    composition of permutations of five symbols (`s5_...`), or sum of bits mod 2 (`parity`)"""
    p: int = 113
    """modulus, odd or even (must be prime for division, 120 for permutations, and 2 for parity)"""
    train_fraction: float | None = 0.3
    """fraction of inputs used for training, strictly between 0 and 1; None: the split is unknown; 1 with split `all`"""
    split: Literal["torch", "python", "numpy", "given", "unknown", "all"] = "torch"
    """library whose shuffle generates the split; `given`: stored with the run; `unknown` and `all` (every input was
    trained on, so there is no test set): for imported models"""
    data_seed: int = 0
    """seed for the split, random labels, and label noise"""
    label_noise: float = 0.0
    """fraction of training labels to replace with another class"""
    random_labels: bool = False
    """draw the label of every input at random: a control task that can only be memorized"""
    operands: int = 2
    """number of operands: the number of bits for parity, or 2 for other operations"""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.operation == "parity":
            require(self.p == 2, f"parity is the sum of bits mod 2: set task.p to 2 (it is {self.p})")
            require(
                2 <= self.operands <= MAX_BITS,
                f"operands, the number of bits, must lie in 2 .. {MAX_BITS}, since all 2^operands strings are "
                f"evaluated, but is {self.operands}",
            )
        else:
            require(self.p >= 3, f"p must be at least 3, but is {self.p}")
            require(
                self.operands == 2,
                f"{self.operation} has 2 operands, but operands is {self.operands}: only parity can have more",
            )
        inputs = "all p^2 inputs are evaluated"
        require(self.p <= MAX_MODULUS, f"p must be at most {MAX_MODULUS}, since {inputs}, but is {self.p}")
        if self.operation in S5_OPERATIONS:
            require(self.p == 120, f"S5 has 120 elements: set task.p to 120 (it is {self.p})")
        if self.operation == "divide":
            require(
                is_prime(self.p),
                f"division mod {self.p} is not defined for every pair, because {self.p} is not a prime: "
                "choose a prime p or another operation",
            )
        if self.split == "unknown":
            require(self.train_fraction is None, "split unknown needs train_fraction null")
            require(self.label_noise == 0, "label_noise must be 0 with split unknown: the training set is unknown")
        elif self.split == "all":
            require(self.train_fraction == 1.0, "split all needs train_fraction 1")
            require(self.label_noise == 0, "label_noise must be 0 with split all")
        else:
            require(
                self.train_fraction is not None and 0.0 < self.train_fraction < 1.0,
                f"train_fraction must lie strictly between 0 and 1, so that both training and test inputs exist, "
                f"but is {self.train_fraction}",
            )
        require_seed(self.data_seed, "data_seed")
        require(0.0 <= self.label_noise < 1.0, f"label_noise must lie in [0, 1), but is {self.label_noise}")
        require(not (self.random_labels and self.label_noise), "random_labels and label_noise exclude each other")

    @property
    def title(self) -> str:
        """The task in a few words: `add mod 113`, `s5_xy`, `parity of 10 bits`."""
        if self.operation == "parity":
            return f"parity of {self.operands} bits"
        return self.operation if self.operation in S5_OPERATIONS else f"{self.operation} mod {self.p}"

    @property
    def n_inputs(self) -> int:
        """Number of inputs of the operation."""
        if self.operation == "parity":
            return 2**self.operands
        first = self.p - (self.operation == "multiply_nonzero")
        second = self.p - (self.operation in ("multiply_nonzero", "divide"))
        return first * second
