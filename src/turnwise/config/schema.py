"""Hydra schemas, derived from the dataclasses of the components: a field is declared once, next to its code.

An option file starts from the schema of its component and sets values:

    defaults:
      - /schema/advantage/turn_return@_here_
      - _self_

    discount: 0.9

so that Hydra itself refuses an unknown key, a wrong type and an enum member that does not exist, wherever they
come from: command line, preset or option file.
"""

import copyreg
import dataclasses
from functools import cache
from typing import Any, cast, get_args, get_origin, get_type_hints

from hydra.core.config_store import ConfigStore
from hydra.utils import get_class
from omegaconf import MISSING, DictConfig, OmegaConf

COMPONENTS = {
    "model/causal_lm": "turnwise.model.causal_lm.CausalLM",
    "engine/hf": "turnwise.engine.hf.HFEngine",
    "engine/vllm": "turnwise.engine.vllm.local.VLLM",
    "engine/vllm_server": "turnwise.engine.vllm.server.VLLMServer",
    "env/python_tool": "turnwise.env.python_tool.PythonTool",
    "env/sandbox/local": "turnwise.env.sandbox.local.LocalSandbox",
    "env/sandbox/fusion": "turnwise.env.sandbox.fusion.FusionSandbox",
    "env/calculator": "turnwise.env.calculator.Calculator",
    "env/lookup": "turnwise.env.lookup.Lookup",
    "env/no_tool": "turnwise.env.no_tool.NoTool",
    "reward/turn_level": "turnwise.reward.turn_level.TurnLevelReward",
    "reward/outcome": "turnwise.reward.outcome.OutcomeReward",
    "reward/information_gain": "turnwise.reward.information_gain.InformationGainReward",
    "reward/similarity/lexical": "turnwise.reward.similarity.lexical.LexicalSimilarity",
    "reward/similarity/structure": "turnwise.reward.similarity.structure.StructureSimilarity",
    "reward/similarity/embedding": "turnwise.reward.similarity.embedding.EmbeddingSimilarity",
    "advantage/turn_return": "turnwise.advantage.turn_return.TurnReturnAdvantage",
    "advantage/group_norm": "turnwise.advantage.group_norm.GroupNormAdvantage",
    "advantage/rloo": "turnwise.advantage.rloo.RlooAdvantage",
    "advantage/reinforce_pp": "turnwise.advantage.reinforce_pp.ReinforcePPAdvantage",
    "advantage/mt_grpo": "turnwise.advantage.mt_grpo.MTGRPOAdvantage",
    "advantage/hybrid_turn": "turnwise.advantage.hybrid_turn.HybridTurnAdvantage",
    "advantage/discounted_normalised": "turnwise.advantage.discounted_normalised.DiscountedNormalisedAdvantage",
    "advantage/end_aligned": "turnwise.advantage.end_aligned.EndAlignedAdvantage",
    "advantage/gigpo": "turnwise.advantage.gigpo.GiGPOAdvantage",
    "loss/clipped": "turnwise.loss.clipped.ClippedLoss",
    "task/arithmetic": "turnwise.task.arithmetic.Arithmetic",
    "task/chain": "turnwise.task.chain.Chain",
    "task/lookup": "turnwise.task.lookup.Lookup",
    "task/jsonl": "turnwise.task.jsonl.Jsonl",
    "task/benchmark": "turnwise.task.benchmark.Benchmark",
    "task/suite": "turnwise.task.suite.Suite",
    "task/reasoning_gym": "turnwise.task.reasoning_gym.ReasoningGym",
    "trainer/single": "turnwise.trainer_settings.TrainerSettings",
    "trainer/fsdp": "turnwise.trainer_settings.ShardedTrainerSettings",
    "tracker/files": "turnwise.tracker.files.Files",
    "tracker/mlflow": "turnwise.tracker.mlflow.MLflow",
    "tracker/tensorboard": "turnwise.tracker.tensorboard.TensorBoard",
    "tracker/wandb": "turnwise.tracker.wandb.Wandb",
    "mode/doctor": "turnwise.config.doctor.mode.Doctor",
    "mode/train": "turnwise.config.modes.Train",
    "mode/evaluate": "turnwise.config.modes.Evaluate",
    "mode/warmstart": "turnwise.config.warmstart.mode.WarmStart",
    "mode/rescore": "turnwise.config.rescore.Rescore",
    "rollout": "turnwise.rollout.sampler.RolloutSettings",
    "evaluation": "turnwise.evaluation.settings.EvaluationSettings",
    "health": "turnwise.health_settings.HealthSettings",
    "warmstart": "turnwise.warmstart.settings.WarmStartSettings",
}
"""What a configuration can name: `schema/<key>` for Hydra, and the class it makes. A new part is one line here."""

_FIELD: Any = dataclasses._FIELD  # pyright: ignore[reportAttributeAccessIssue]
# Hydra copies its sources, and all schemas with them, each time that it looks for an option: most of what --help does.
# It copies what it takes out of the store besides, so the one store that there is can be its own copy.
ConfigStore.__deepcopy__ = lambda self, _: self  # pyright: ignore[reportAttributeAccessIssue]
# Launchers pickle the schemas by value, and again in a job that is to be queued again, which registers no schemas. The
# mark of a field is known by its identity, so it goes by its name.
copyreg.pickle(type(_FIELD), lambda _: "_FIELD")
HAS_GROUP = "has_group"
"""Marks, in the metadata of a schema's field, a part that is chosen by a config group of its own."""


@dataclasses.dataclass
class RunConfig:
    """The root of every configuration; each part takes the type of the option that fills it."""

    seed: int = 0
    model: Any = MISSING
    engine: Any = MISSING
    env: Any = MISSING
    reward: Any = MISSING
    advantage: Any = MISSING
    loss: Any = MISSING
    task: Any = MISSING
    rollout: Any = MISSING
    evaluation: Any = MISSING
    warmstart: Any = MISSING
    trainer: Any = MISSING
    health: Any = MISSING
    tracker: Any = MISSING
    mode: Any = MISSING


@cache  # tests start many runs in one process
def register_schemas() -> None:
    """Makes every schema known to Hydra, below the group `schema`; once in a process."""
    store = ConfigStore.instance()
    store.store(group="schema", name="run", node=RunConfig)
    for key, target in COMPONENTS.items():
        group, _, name = f"schema/{key}".rpartition("/")
        node = OmegaConf.structured(schema_of(get_class(target)))
        _open_mappings(node)
        store.store(group=group, name=name, node=node)


def _open_mappings(schema: DictConfig) -> None:
    """Lets the command line add keys to the `dict` fields, which Hydra closes together with everything else."""
    for name in schema:
        if isinstance(value := schema._get_node(name), DictConfig) and not value._is_missing():
            if dataclasses.is_dataclass(OmegaConf.get_type(value)):
                _open_mappings(value)
            else:
                OmegaConf.set_struct(value, False)


@cache  # equal types must be one type, for parts take values from one another
def schema_of(component: type) -> type:
    """The mutable twin of a component's dataclass: same fields, types and defaults, and the `_target_` to make it.

    A nested dataclass becomes a nested schema. A field typed by a protocol is a part with a config group of its
    own, which fills it; until then it is missing.

    Raises:
        TypeError: `component` is not a dataclass.
    """
    if not dataclasses.is_dataclass(component):
        raise TypeError(f"{component.__qualname__} is not a dataclass: a component's fields are its settings")
    types = get_type_hints(component)
    target = ("_target_", str, dataclasses.field(default=f"{component.__module__}.{component.__qualname__}"))
    fields = [_schema_field(field, types[field.name]) for field in dataclasses.fields(component) if field.init]
    return dataclasses.make_dataclass(component.__name__, [target, *fields], kw_only=True)


def _schema_field(field: dataclasses.Field[Any], type_: Any) -> tuple[str, Any, Any]:
    """Name, type and default of a field, as `make_dataclass` takes them."""
    if getattr(type_, "_is_protocol", False):
        return field.name, Any, dataclasses.field(default=MISSING, metadata={HAS_GROUP: True})
    if dataclasses.is_dataclass(type_):
        schema = schema_of(cast(type, type_))
        return field.name, schema, dataclasses.field(default_factory=lambda: schema(**_own_values(field)))
    if field.default_factory is not dataclasses.MISSING:
        element = next(iter(get_args(type_)), None)
        if get_origin(type_) is list and dataclasses.is_dataclass(element):
            type_ = list[schema_of(cast(type, element))]
        return field.name, type_, dataclasses.field(default_factory=field.default_factory)
    default = MISSING if field.default is dataclasses.MISSING else field.default
    return field.name, type_, dataclasses.field(default=default)


def _own_values(field: dataclasses.Field[Any]) -> dict[str, Any]:
    """What a field's default sets in a nested dataclass, which may differ from that class's own defaults."""
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    if default is dataclasses.MISSING:
        return {}
    return {item.name: getattr(default, item.name) for item in dataclasses.fields(default)}
