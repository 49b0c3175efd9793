"""TaskConfig: what is to be learned, and from which inputs."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from grokinterp.config.checks import STRICT, check_fields, is_prime, require

Operation = Literal[
    "add",
    "subtract",
    "multiply",
    "multiply_nonzero",
    "divide",
    "x^2+y^2",
    "x^2+xy+y^2",
    "x^2+xy+y^2+x",
    "x^3+xy",
    "x^3+xy^2+y",
    "s5_xy",
    "s5_xyx",
    "s5_xyx^-1",
    "parity",
]
OPERATIONS: tuple[str, ...] = get_args(Operation)
S5_OPERATIONS = ("s5_xy", "s5_xyx", "s5_xyx^-1")

_MOST_BITS = 20  # of which all 2^k strings are evaluated


@dataclass(frozen=True)
class TaskConfig:
    """The problem: every input of an operation, and which of them are trained on."""

    __pydantic_config__: ClassVar[Any] = STRICT

    operation: Operation = "add"
    """what is computed mod p (`multiply` keeps zeros, `multiply_nonzero` and `divide` by b != 0 do not), or of two
    permutations of five symbols, or the sum of bits mod 2"""
    p: int = 113
    """the modulus, odd or even; division needs a prime. 120 for permutations, which is their number; 2 for parity"""
    train_fraction: float | None = 0.3
    """share of all inputs that is trained on, strictly between 0 and 1; null where the split is unknown"""
    split: Literal["torch", "python", "numpy", "given", "unknown"] = "torch"
    """whose shuffle made the split; `given`: stored with the run; `unknown`: an imported model's"""
    data_seed: int = 0
    """seed of the split, of random labels and of label noise"""
    label_noise: float = 0.0
    """share of the training labels that are replaced by another class"""
    random_labels: bool = False
    """labels drawn at random for every input: a control that can only be memorized"""
    operands: int = 2
    """number of operands: the number of bits for parity, else 2"""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.operation == "parity":
            require(self.p == 2, f"parity is the sum of bits mod 2: give task.p 2 (it is {self.p})")
            require(
                2 <= self.operands <= _MOST_BITS,
                f"operands, the number of bits, must lie in 2 .. {_MOST_BITS}, since all 2^operands strings are "
                f"evaluated, but is {self.operands}",
            )
        else:
            require(self.p >= 3, f"p must be at least 3, but is {self.p}")
            require(
                self.operands == 2,
                f"{self.operation} has 2 operands, and operands is {self.operands}: only parity has another number",
            )
        require(self.p <= 1000, f"p must be at most 1000, since all p^2 inputs are evaluated, but is {self.p}")
        if self.operation in S5_OPERATIONS:
            require(self.p == 120, f"S5 has 120 elements: give task.p 120 (it is {self.p})")
        if self.operation == "divide":
            require(
                is_prime(self.p),
                f"division mod {self.p} is not defined for every pair, because {self.p} is not a prime: "
                "choose a prime p, or another operation",
            )
        if self.split == "unknown":
            require(self.train_fraction is None, "split 'unknown' goes with train_fraction null")
            require(self.label_noise == 0, "label_noise is of training labels, and with split 'unknown' none are known")
        else:
            given = self.train_fraction
            require(
                given is not None and 0.0 < given < 1.0,
                f"train_fraction must lie strictly between 0 and 1, so that there are both training and test pairs, "
                f"but is {given}",
            )
        require(0 <= self.data_seed < 2**32, f"data_seed must lie in [0, 2^32), but is {self.data_seed}")
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
        """Number of inputs that there are."""
        if self.operation == "parity":
            return 2**self.operands
        first = self.p - (self.operation == "multiply_nonzero")
        second = self.p - (self.operation in ("multiply_nonzero", "divide"))
        return first * second
