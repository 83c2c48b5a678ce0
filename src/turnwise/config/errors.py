"""A mistake of the user ends with one clear line and exit code 2, a bug or failure with its traceback and 1.

A broken tool, dead servers, a full disk, a collapsed policy, work that is stuck and another process of the run that has
ended, which no traceback would explain, end with one line and exit code 1.
"""

import difflib
import os
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass
from types import CodeType
from typing import Any, NoReturn

from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException
from yaml import YAMLError

from turnwise.config.options import option_groups
from turnwise.disk import DISK_ERRORS
from turnwise.engine.vllm.backend import NoVLLMLeft
from turnwise.env.breaker import BrokenToolError
from turnwise.health import Collapsed
from turnwise.ranks import RankFailed, RankLost, current, is_first_to_speak, noticing_loss
from turnwise.watchdog import Stuck

_WANTS_TRACEBACKS = os.environ.get("HYDRA_FULL_ERROR") == "1"
_MAX_LENGTH = 600
_MAX_LIST_LENGTH = 2400
"""Of a line that may list what is wrong, such as files that are missing."""
GOES_ON = "the same command with this hydra.run.dir goes on"
_GOES_ON = f"once it works, {GOES_ON}"


class ConfigError(ValueError):
    """What the user asked for cannot be done; the text says what, where and what would do."""


class JobEnded(Exception):
    """One job of a multirun ended early; the others go on, and the multirun ends with its text and exit code."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text, exit_code)  # both, so that it can be pickled on its way from another process
        self.text = text
        self.exit_code = exit_code


@contextmanager
def building() -> Iterator[None]:
    """For the phase before the first step: bad values, files and missing packages are the user's to mend.

    The same exceptions later are failures, so this must not enclose training. Where several ranks build, a mistake that
    one of them meets ends all of them: they meet at the end of the block, and must not within it.

    Raises:
        ConfigError: In place of ValueError, OSError and ImportError.
    """
    mistake: ConfigError | None = None
    try:
        yield
    except ConfigError as error:
        mistake = error
    except (ValueError, OSError, ImportError) as error:
        mistake = ConfigError(_one_line(str(error) or repr(error), _MAX_LIST_LENGTH))
        mistake.__cause__ = error
    for rank, met in enumerate(current().gather(None if mistake is None else str(mistake))):
        if met is not None:
            raise mistake or ConfigError(f"rank {rank}: {met}")


@contextmanager
def clean_exit(job: CodeType | None = None) -> Iterator[None]:
    """Ends the process with one line on stderr: exit code 2 for the user's mistake, 1 for what broke around it.

    It is 1 too where another process of the run has ended; who notices first says so.

    Hydra prints errors its own way unless HYDRA_FULL_ERROR asks for exceptions, so it is asked here; a user who
    sets that variable sees every traceback. Of several ranks, which all end by the same mistake, the first says so.

    Args:
        job: For the context around Hydra: the code of the job's function. A ValueError or OSError that Hydra meets
            on its own, before the job, is the user's mistake; one that comes out of the job is a failure.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        with noticing_loss(lambda: GOES_ON):
            yield
    except KeyboardInterrupt:
        if job is None:
            raise
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except JobEnded as end:
        if job is None:  # Hydra notes it and starts the next job
            raise
        _say(end.text)
        sys.exit(end.exit_code)
    except BrokenToolError as error:
        _say(f"{error}; {_GOES_ON}")
        sys.exit(1)
    except Collapsed as error:
        _say(f"{error}; its checkpoints and health.jsonl, with all alarms, are in its folder")
        sys.exit(1)
    except Stuck as error:
        if is_first_to_speak():  # whichever rank it is
            print(f"error: {error}; {_GOES_ON}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(1)  # the interpreter would wait for threads, and one of them may be what hangs
    except NoVLLMLeft as error:  # each rank has servers of its own, and says so itself
        print(f"error: {error}; {_GOES_ON}", file=sys.stderr)
        sys.exit(1)
    except RankFailed as error:
        _say(str(error))
        sys.exit(1)
    except RankLost as error:
        if is_first_to_speak():
            print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except (ConfigError, HydraException, OmegaConfBaseException, YAMLError) as error:
        _exit(error, explain(error))
    except (ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            _say(f"{error.filename or 'the disk'}: {error.strerror}; {_GOES_ON}")
            sys.exit(1)
        if job is None or any(frame.f_code is job for frame, _ in traceback.walk_tb(error.__traceback__)):
            raise
        _exit(error, f"{explain(error)} (command line: {' '.join(sys.argv[1:])})")


def explain(error: BaseException) -> str:
    """One line that names the key, the value and what would be valid, as far as `error` or its cause knows them."""
    cause = error.__cause__ or error.__context__
    match error:
        case MissingConfigException(missing_cfg_file=str(path), options=[*options]) if options:
            group, _, option = path.rpartition("/")
            hint = _did_you_mean(difflib.get_close_matches(option, options, n=1))
            return f"{group}={option}: no such option{hint}; options: {', '.join(options)}"
        case OverrideParseException():
            return _one_line(f"cannot read the override {error.override!r}: {error.message.partition('See https')[0]}")
        case ConfigKeyError() | ConfigAttributeError() if isinstance(error.parent_node, DictConfig):
            return _unknown_key(error.parent_node, str(error.key), str(error.full_key))
        case MissingMandatoryValue():
            return f"{error.full_key} is not set: give {error.full_key}=VALUE"
        case OmegaConfBaseException(full_key=str(full_key), msg=str(message)) if "is not a ListConfig" in message:
            return f"{full_key}: expected a list, {full_key}=[VALUE,...]"
        case OmegaConfBaseException(full_key=str(full_key), msg=str(message)) if "is not a subclass of" in message:
            return f"{full_key}: expected values of its own, {full_key}.NAME=VALUE"
        case OmegaConfBaseException(full_key=str(full_key), msg=str(message)):
            return f"{full_key}: {message.splitlines()[0]}"
        case ConfigCompositionException() if unmatched := re.match(r"Could not override '(.+?)'. No match", str(error)):
            parent = unmatched[1].rpartition("/")[0]
            return f"{unmatched[1]}: no such group" + (f", or the chosen option of {parent} has none" if parent else "")
        case ConfigCompositionException() if ambiguous := re.match(r"Ambiguous value for argument '(.+)'", str(error)):
            key, _, values = ambiguous[1].partition("=")
            return (
                f"{key}={values} gives several values: add -m to run each of them, or write {key}=[{values}] for a list"
            )
        case HydraException() if isinstance(cause, OmegaConfBaseException):
            source = re.match(r"In '(.+?)': ", str(error))
            return (f"{source[1]}.yaml: " if source else "") + explain(cause)
    return _one_line(str(error) or repr(error))


def _unknown_key(node: DictConfig, key: str, full_key: str) -> str:
    if not is_dataclass(OmegaConf.get_type(node)):
        return f"{full_key} is not there yet: add it with +{full_key}=VALUE"
    parent = full_key.removesuffix(key)
    keys = [str(name) for name in node if name not in ("_target_", "hydra")]
    if not parent:
        keys += [group for group in option_groups() if group not in keys]
    matches = [parent + match for match in difflib.get_close_matches(key, keys, n=1)]
    if not matches:
        everything = _dotted_keys(OmegaConf.to_container(node._get_root(), resolve=False))
        matches = [name for name in everything if name.rpartition(".")[2] == key]
    return f"{full_key}: no such key{_did_you_mean(matches)}; {known_keys(parent[:-1], keys)}"


def known_keys(parent: str, keys: Sequence[str]) -> str:
    """What to say about the keys that there are below `parent`: their full names, or that there is none."""
    if not keys:
        return f"the chosen {parent} has no settings"
    return f"keys: {', '.join(f'{parent}.{key}' if parent else key for key in keys)}"


def _dotted_keys(tree: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield f"{prefix}{key}"
            yield from _dotted_keys(value, f"{prefix}{key}.")


def _did_you_mean(matches: Sequence[str]) -> str:
    return f" (did you mean {' or '.join(matches)}?)" if matches else ""


def _one_line(text: str, max_length: int = _MAX_LENGTH) -> str:
    line = " ".join(text.split())
    return line if len(line) <= max_length else f"{line[:max_length]} ..."


def _exit(error: Exception, line: str) -> NoReturn:
    if _WANTS_TRACEBACKS:
        raise error
    _say(line)
    sys.exit(2)


def _say(line: str) -> None:
    if current().is_first:
        print(f"error: {line}", file=sys.stderr)
        is_first_to_speak()  # whoever only notices that this rank has ended adds nothing
