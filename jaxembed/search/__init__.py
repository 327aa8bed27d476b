"""Top-k search over vectors."""

from jaxembed.search.exact import exact_top_k

__all__ = ["exact_top_k"]
