"""Decoding: greedy, beam, exhaustive search and sampling over any step function."""

from jaxembed.decoding.beam import Stop, beam_search
from jaxembed.decoding.decoded import Decoded
from jaxembed.decoding.exhaustive import exhaustive_search
from jaxembed.decoding.greedy import greedy_search
from jaxembed.decoding.sample import sample
from jaxembed.decoding.sharded import search_by_shard
from jaxembed.decoding.step import Shared

__all__ = [
    "Decoded",
    "Shared",
    "Stop",
    "beam_search",
    "exhaustive_search",
    "greedy_search",
    "sample",
    "search_by_shard",
]
