"""A study whose page is read in one module and opened in another."""

from collections.abc import Callable
from pathlib import Path

import pytest

from synthetic_study import synthetic_study
from turnwise.study.figures import study_figures
from turnwise.study.page import write_page
from turnwise.study.runs import Study, read_study
from turnwise.study.statistics import Metric, compare


@pytest.fixture(scope="session")
def page_of() -> Callable[[Study], Path]:
    """Writes the page of a study."""

    def write(study: Study) -> Path:
        findings = {metric: compare(study, metric) for metric in Metric}
        return write_page(study, findings, study_figures(study, findings), "make ablations")

    return write


@pytest.fixture(scope="session")
def paged_study(tmp_path_factory) -> Study:
    """Four arms over two horizons; one run is missing, one has a page of its own."""
    root = tmp_path_factory.mktemp("study")
    arms = ["gtpo", "no_discount", "pool_turn_index", "no_shaping"]
    synthetic_study(root, arms=arms, num_seeds=2, num_steps=6, settings=["2", "8"])
    (root / "no_shaping_horizon8_seed1" / "summary.json").unlink()
    (root / "gtpo_horizon2_seed0" / "report.html").write_text("<title>a run</title>")
    return read_study(root)


@pytest.fixture(scope="session")
def page_path(paged_study, page_of) -> Path:
    """Its page."""
    return page_of(paged_study)
