"""What reading and checking a configuration costs: nothing that only a run needs."""

import subprocess
import sys

from turnwise.config.options import CONF_DIR

HEAVY = (
    "transformers",
    "vllm",
    "wandb",
    "tensorboard",
    "mlflow",
    "sentence_transformers",
    "math_verify",
    "sympy.parsing",
    "reasoning_gym",
)


def test_composing_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.path.insert(0, 'src'); import main, turnwise.config.launch;"
        "from turnwise.config.schema import register_schemas; register_schemas();"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=CONF_DIR.parent, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
