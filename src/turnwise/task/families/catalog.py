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
