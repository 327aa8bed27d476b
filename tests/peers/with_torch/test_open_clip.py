"""The losses of open_clip on the same features: values and all gradients."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxembed.losses import clip_loss, sharded, sigmoid_contrastive
from jaxembed.train import make_mesh

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]
torch = pytest.importorskip("torch")


def load_losses():
    """The module of losses alone: the package asks for torchvision, which they do not need."""
    package = importlib.util.find_spec("open_clip")
    if package is None:
        pytest.skip("pip install --no-deps open-clip-torch brings the losses")
    file = Path(package.submodule_search_locations[0], "loss.py")
    spec = importlib.util.spec_from_file_location("open_clip_loss", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCALE, BIAS = 12.5, -9.0


def draw_features():
    random = np.random.default_rng(0)
    sides = random.normal(size=(2, 32, 24)).astype(np.float32)
    return sides / np.linalg.norm(sides, axis=2, keepdims=True)


def run_theirs(loss, bias):
    """Value and gradients by images, texts, scale and bias."""
    tensors = [torch.tensor(side, requires_grad=True) for side in draw_features()]
    numbers = (SCALE, BIAS) if bias else (SCALE,)
    tensors += [torch.tensor(number, requires_grad=True) for number in numbers]
    value = loss(*tensors)
    value.backward()
    return value.item(), [tensor.grad.numpy() for tensor in tensors]


@pytest.mark.parametrize("way", ["dense", "chunked", "ring"])
@pytest.mark.parametrize("kind", ["clip", "sigmoid"])
def test_losses_and_gradients_are_theirs(kind, way):
    options = {"chunked": {"chunk_size": 5}}.get(way, {})
    if way == "ring":
        options = {"mesh": make_mesh(8, 1), "chunk_size": 3}
    functions = (clip_loss, sharded.clip_loss)
    if kind == "sigmoid":
        functions = (sigmoid_contrastive, sharded.sigmoid_contrastive)
    function = functions[way == "ring"]

    def ours(images, texts, scale, bias):
        if kind == "clip":
            return jnp.mean(function(images, texts, temperature=1 / scale, **options))
        return jnp.mean(function(images, texts, scale=scale, bias=bias, **options))

    losses = load_losses()
    theirs = losses.ClipLoss() if kind == "clip" else losses.SigLipLoss()
    wanted, gradients = run_theirs(theirs, kind == "sigmoid")
    arguments = [jnp.asarray(one) for one in (*draw_features(), SCALE, BIAS)]
    value, found = jax.value_and_grad(ours, (0, 1, 2, 3))(*arguments)
    np.testing.assert_allclose(value, wanted, rtol=1e-6)
    for one, other in zip(found, gradients, strict=False):  # CLIP's has no bias
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6 * np.abs(other).max())
