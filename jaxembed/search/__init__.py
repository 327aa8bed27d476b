"""Top-k search over vectors."""

from jaxembed.search.binary import BinaryIndex
from jaxembed.search.exact import ExactIndex, exact_top_k
from jaxembed.search.hashing import LSHIndex
from jaxembed.search.index import Index
from jaxembed.search.ivf import IVFIndex
from jaxembed.search.ivfpq import IVFPQIndex
from jaxembed.search.product import PQIndex
from jaxembed.search.rabitq import RabitqIndex
from jaxembed.search.scalar import Int4Index, Int8Index
from jaxembed.search.scann import ScannIndex
from jaxembed.search.sharded import sharded_search
from jaxembed.search.storage import load_index
from jaxembed.search.streaming import stream_top_k
from jaxembed.search.tree import BallTreeIndex

__all__ = [
    "BallTreeIndex",
    "BinaryIndex",
    "ExactIndex",
    "IVFIndex",
    "IVFPQIndex",
    "Index",
    "Int4Index",
    "Int8Index",
    "LSHIndex",
    "PQIndex",
    "RabitqIndex",
    "ScannIndex",
    "exact_top_k",
    "load_index",
    "sharded_search",
    "stream_top_k",
]
