"""Top-k search over vectors."""

from jaxembed.search.exact import ExactIndex, exact_top_k
from jaxembed.search.index import Index
from jaxembed.search.storage import load_index

__all__ = [
    "ExactIndex",
    "Index",
    "exact_top_k",
    "load_index",
]
