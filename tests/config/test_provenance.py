"""config.json says how a run was made and keeps two runs out of one folder."""

import json
import shutil
from pathlib import Path

import pytest

from turnwise.checkpoint import RECORD as RECORD_NAME
from turnwise.config import provenance
from turnwise.config.errors import ConfigError
from turnwise.config.provenance import CONFIG_FILE, check_same_run, write_config
from turnwise.manifest import write_manifest

RECORD = {
    "config": {"seed": 0, "trainer": {"num_steps": 4, "dtype": "float32"}, "tracker": {"project": "a"}, "sizes": [1]}
}


def changed(**leaves: object) -> dict[str, object]:
    config = json.loads(json.dumps(RECORD["config"]))
    for key, value in leaves.items():
        *parents, leaf = key.split("__")
        node = config
        for parent in parents:
            node = node[parent]
        node[leaf] = value
    return {"config": config}


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    write_config(tmp_path, RECORD)
    return tmp_path


def test_record_of_a_run(start, tmp_path: Path) -> None:
    ended = start("algo=grpo", "seed=1", "reward.shaping=true")
    ((components, run_dir),) = ended.runs
    record = json.loads((run_dir / CONFIG_FILE).read_text())
    assert record["label"] == "grpo+reward.shaping-true"
    assert record["overrides"] == ["algo=grpo", "seed=1", "reward.shaping=true"]
    assert record["choices"]["advantage"] == "group_norm"
    assert record["choices"]["reward/similarity"] == "lexical"
    assert record["choices"]["ablation"] is None
    assert not [group for group in record["choices"] if group.startswith(("hydra", "schema"))]
    assert record["config"] == components.config
    assert record["config"]["seed"] == 1
    assert record["config"]["advantage"]["std_kind"] == "population"
    assert {"python", "torch", "transformers"} <= set(record["versions"])
    assert record["versions"]["torch"].startswith("2.")
    assert record["device"]["type"] in ("cpu", "cuda")
    assert [path.name for path in run_dir.iterdir()] == [CONFIG_FILE]


def test_git_state(tmp_path: Path) -> None:
    state = provenance._git_state(provenance.CONF_DIR)
    if state is not None:  # a source archive has no revision
        assert len(state["revision"]) == 40
        assert isinstance(state["is_dirty"], bool)


@pytest.mark.parametrize("path", ["", None], ids=["no git", "no checkout"])
def test_git_state_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str | None) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    if path is not None:
        monkeypatch.setenv("PATH", path)
    assert provenance._git_state(tmp_path) is None


def test_absent_and_empty_folders_are_fine(tmp_path: Path) -> None:
    check_same_run(tmp_path, RECORD)
    check_same_run(tmp_path / "none", RECORD)


@pytest.mark.parametrize("record", [RECORD, changed(trainer__num_steps=9), changed(tracker={"entity": None})])
def test_same_run_may_go_on(run_dir: Path, record) -> None:
    check_same_run(run_dir, record)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (changed(seed=1), "belongs to another run: seed=0 there, 1 here$"),
        (changed(trainer__dtype="bfloat16"), "trainer.dtype=float32 there, bfloat16 here$"),
        (changed(sizes=[1, 2]), r"sizes=\[1\] there, \[1, 2\] here$"),
        (changed(extra="x"), "extra=None there, x here$"),
        (changed(seed=1, a=1, b=2, c=3, sizes=[]), "seed=0 there, 1 here; .* and 2 more$"),
    ],
)
def test_another_run_is_refused(run_dir: Path, record, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_same_run(run_dir, record)


def test_a_checkpoint_of_another_run_is_refused(run_dir: Path) -> None:
    for step, record in [(2, changed(trainer__num_steps=9)), (4, changed(seed=1, sizes=[2]))]:
        folder = run_dir / "checkpoints" / f"step_{step}"
        folder.mkdir(parents=True)
        (folder / RECORD_NAME).write_text(json.dumps(record))
        write_manifest(folder)
    with pytest.raises(ConfigError, match=r"checkpoints/step_4 belongs to another run: seed=1 there, 0 here; sizes="):
        check_same_run(run_dir, RECORD)
    shutil.rmtree(run_dir / "checkpoints" / "step_4")
    check_same_run(run_dir, RECORD)


@pytest.mark.parametrize("text", [b"", b"\xff", json.dumps(changed(seed=8)).encode()])
def test_a_record_in_a_damaged_checkpoint_says_nothing(run_dir: Path, text: bytes) -> None:
    folder = run_dir / "checkpoints" / "step_2"
    folder.mkdir(parents=True)
    (folder / RECORD_NAME).write_text(json.dumps(RECORD))
    write_manifest(folder)
    (folder / RECORD_NAME).write_bytes(text)
    check_same_run(run_dir, RECORD)


def test_folder_of_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ConfigError, match=r"hydra\.run\.dir=.* is not empty and holds no config\.json"):
        check_same_run(tmp_path, RECORD)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"config": 3}', "{"])
def test_unreadable_record_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / CONFIG_FILE).write_text(text)
    with pytest.raises(ConfigError, match=r"config\.json is not the record of a run"):
        check_same_run(tmp_path, RECORD)


def test_second_start_in_the_same_folder(start, tmp_path: Path) -> None:
    folder = f"hydra.run.dir={tmp_path / 'run'}"
    assert start(folder).code == 0
    longer = start(folder, "trainer.num_steps=99", "tracker=wandb")
    assert (longer.code, len(longer.runs)) == (0, 1)
    before = (tmp_path / "run" / CONFIG_FILE).read_text()
    other = start(folder, "seed=1")
    assert (other.code, other.runs) == (2, [])
    assert other.stderr.endswith("belongs to another run: seed=0 there, 1 here\n")
    assert (tmp_path / "run" / CONFIG_FILE).read_text() == before


def test_record_keeps_every_start(start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = f"hydra.run.dir={tmp_path / 'run'}"
    path = tmp_path / "run" / CONFIG_FILE
    for revision in "ab":
        state = {"revision": revision, "is_dirty": False}
        monkeypatch.setattr(provenance, "_git_state", lambda _, state=state: state)
        assert start(folder, *(["trainer.num_steps=99"] if revision == "b" else [])).code == 0
    record = json.loads(path.read_text())
    assert record["git"]["revision"] == "a"
    assert record["overrides"] == []
    assert record["config"]["trainer"]["num_steps"] == 99
    assert [one["git"]["revision"] for one in record["starts"]] == ["a", "b"]
    assert [one["overrides"] for one in record["starts"]] == [[], ["trainer.num_steps=99"]]
    assert all(one.keys() == {"git", "versions", "device", "overrides"} for one in record["starts"])


def test_refused_start_leaves_the_record_alone(start, tmp_path: Path) -> None:
    def refuse(components, run_dir):
        raise ConfigError("no")

    folder = f"hydra.run.dir={tmp_path / 'run'}"
    assert start(folder).code == 0
    before = (tmp_path / "run" / CONFIG_FILE).read_bytes()
    assert start(folder, "trainer.num_steps=99", mode=refuse).code == 2
    assert (tmp_path / "run" / CONFIG_FILE).read_bytes() == before


def test_mistake_leaves_other_peoples_files_alone(start, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/thesis.tex").touch()
    assert start(f"hydra.run.dir={tmp_path / 'run'}").code == 2
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]
