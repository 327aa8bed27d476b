"""Training: mesh, state, step, loop and checkpoints; sees functions and pytrees only."""

from jaxembed.train.bounds import keep_within
from jaxembed.train.checkpoint import (
    abstract_like,
    latest_step,
    restore,
    restore_params,
    save,
    save_params,
)
from jaxembed.train.epoch import EpochNumbers, make_epoch_step, with_step
from jaxembed.train.loop import Interrupted, LogEntry, NonFiniteError, train
from jaxembed.train.mesh import logical_sharding, make_mesh, put_batch, put_tree, tree_shardings
from jaxembed.train.optimizer import Adam, make_optimizer
from jaxembed.train.state import TrainState, abstract_state, init_state, make_state
from jaxembed.train.step import LossFn, Metrics, StepFn, gradient_step
from jaxembed.train.sweep import make_sweep_state, make_sweep_step, select_model

__all__ = [
    "Adam",
    "EpochNumbers",
    "Interrupted",
    "LogEntry",
    "LossFn",
    "Metrics",
    "NonFiniteError",
    "StepFn",
    "TrainState",
    "abstract_like",
    "abstract_state",
    "gradient_step",
    "init_state",
    "keep_within",
    "latest_step",
    "logical_sharding",
    "make_epoch_step",
    "make_mesh",
    "make_optimizer",
    "make_state",
    "make_sweep_state",
    "make_sweep_step",
    "put_batch",
    "put_tree",
    "restore",
    "restore_params",
    "save",
    "save_params",
    "select_model",
    "train",
    "tree_shardings",
    "with_step",
]
