"""Retrieval metrics of one query at a time, from lists of ids."""

import math


def recall(found, relevant, k):
    return len(set(found[:k]) & set(relevant)) / len(relevant) if relevant else 0.0


def precision(found, relevant, k):
    return len(set(found[:k]) & set(relevant)) / k


def reciprocal_rank(found, relevant, k):
    for rank, item in enumerate(found[:k], 1):
        if item in relevant:
            return 1 / rank
    return 0.0


def average_precision(found, relevant, k):
    if not relevant:
        return 0.0
    hits = total = 0
    for rank, item in enumerate(found[:k], 1):
        if item in relevant:
            hits += 1
            total += hits / rank
    return total / min(len(relevant), k)


def ndcg(found, gains, k):
    """gains: a dictionary from relevant id to its gain."""
    got = sum(gains.get(item, 0) / math.log2(1 + rank) for rank, item in enumerate(found[:k], 1))
    best = sorted(gains.values(), reverse=True)[:k]
    ideal = sum(gain / math.log2(1 + rank) for rank, gain in enumerate(best, 1))
    return got / ideal if ideal else 0.0
