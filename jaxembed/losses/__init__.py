"""Losses: pure functions of arrays, unreduced and masked."""

from jaxembed.losses import sharded
from jaxembed.losses.contrastive import (
    candidate_softmax,
    clip_loss,
    info_nce,
    matryoshka,
    n_pair,
    sigmoid_contrastive,
    triplet,
)
from jaxembed.losses.likelihoods import (
    bernoulli_log_likelihood,
    categorical_log_likelihood,
    discretized_logistic_log_likelihood,
    gaussian_log_likelihood,
    multinomial_log_likelihood,
)
from jaxembed.losses.micro_batches import encode_in_micro_batches
from jaxembed.losses.sampled import full_softmax, hierarchical_softmax, negative_sampling
from jaxembed.losses.sequence import token_cross_entropy
from jaxembed.losses.variational import (
    beta_schedule,
    doubly_reparameterized_bound,
    elbo,
    free_bits,
    gaussian_kl,
    gaussian_kl_per_dimension,
    iwae_bound,
    monte_carlo_kl,
)

__all__ = [
    "bernoulli_log_likelihood",
    "beta_schedule",
    "candidate_softmax",
    "categorical_log_likelihood",
    "clip_loss",
    "discretized_logistic_log_likelihood",
    "doubly_reparameterized_bound",
    "elbo",
    "encode_in_micro_batches",
    "free_bits",
    "full_softmax",
    "gaussian_kl",
    "gaussian_kl_per_dimension",
    "gaussian_log_likelihood",
    "hierarchical_softmax",
    "info_nce",
    "iwae_bound",
    "matryoshka",
    "monte_carlo_kl",
    "multinomial_log_likelihood",
    "n_pair",
    "negative_sampling",
    "sharded",
    "sigmoid_contrastive",
    "token_cross_entropy",
    "triplet",
]
