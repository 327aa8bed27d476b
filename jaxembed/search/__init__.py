"""Top-k search over vectors."""

from jaxembed.search.exact import ExactIndex, exact_top_k
from jaxembed.search.hashing import LSHIndex
from jaxembed.search.index import Index
from jaxembed.search.ivf import IVFIndex
from jaxembed.search.product import IVFPQIndex, PQIndex
from jaxembed.search.scann import ScannIndex
from jaxembed.search.storage import load_index
from jaxembed.search.tree import BallTreeIndex

__all__ = [
    "BallTreeIndex",
    "ExactIndex",
    "IVFIndex",
    "IVFPQIndex",
    "Index",
    "LSHIndex",
    "PQIndex",
    "ScannIndex",
    "exact_top_k",
    "load_index",
]
