"""Likeness of programs by the cosine of their text embeddings, as in the paper."""

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class EmbeddingSimilarity:
    """Cosine of the embeddings of two programs; a negative cosine counts as 0 (arXiv 2511.14846, figure 3 [A], [O]).

    Needs the extra `turnwise[embedding]`. The model is loaded at the first comparison and shared by every instance
    with the same path and device.
    """

    path: str = "sentence-transformers/all-MiniLM-L6-v2"
    """A sentence-transformers model: a folder, or a name on the hub. The paper does not name its model."""
    device: str = "cpu"
    """Where the model runs: cpu, cuda or cuda:<index>."""

    def __post_init__(self) -> None:
        if not self.path.strip():
            raise ValueError(f"path={self.path!r}: expected a folder or the name of a sentence-transformers model")

    def __call__(self, code: str, other: str) -> float:
        """1 for equal programs; 0 if one of them is blank."""
        if not code.strip() or not other.strip():
            return 0.0
        if code == other:
            return 1.0
        cosine = float(_unit_vector(self.path, self.device, code) @ _unit_vector(self.path, self.device, other))
        return min(1.0, max(0.0, cosine))


@lru_cache(maxsize=4096)
def _unit_vector(path: str, device: str, code: str) -> "NDArray[np.float64]":
    vector = np.asarray(_encoder(path, device).encode(code, show_progress_bar=False), dtype=np.float64)
    norm = float(np.linalg.norm(vector))
    if not (np.isfinite(norm) and norm > 0):
        raise ValueError(f"similarity.path={path!r} gave an embedding of norm {norm} for {code[:80]!r}")
    return vector / norm


@lru_cache(maxsize=1)
def _encoder(path: str, device: str) -> Any:
    try:
        from sentence_transformers import SentenceTransformer  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            "similarity=embedding needs sentence-transformers: pip install sentence-transformers"
        ) from error
    return SentenceTransformer(path, device=device)
