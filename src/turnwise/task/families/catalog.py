"""Every problem family by name."""

from turnwise.task.families.chains import CHAINS
from turnwise.task.families.digits import DIGITS
from turnwise.task.families.divisibility import DIVISIBILITY
from turnwise.task.families.expressions import EXPRESSIONS
from turnwise.task.families.family import Family
from turnwise.task.families.sequences import SEQUENCES

FAMILIES: dict[str, Family] = {
    family.name: family for family in (*EXPRESSIONS, *DIVISIBILITY, *DIGITS, *SEQUENCES, *CHAINS)
}

WARM_START_FAMILIES = (
    "expression",
    "story",
    "gcd",
    "lcm",
    "power_mod",
    "next_prime",
    "from_base",
    "to_base",
    "prime_count",
    "conditions",
    "digit_sum",
    "length",
    "range_sum",
    "gcd_power",
    "prime_product",
    "remainder_digits",
    "root_sum",
)
"""Those that the tiny policy's warm start has shown it; the others tell how far what it learns carries over."""
