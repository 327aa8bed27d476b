"""An exported tower runs in a process that has jax alone."""

import subprocess
import sys

import jax
import numpy as np
import pytest
from random_params import draw_params

from jaxembed.convert.export import export_encoder
from jaxembed.nn import TextTransformer, VisionTransformer

READER = """
import sys
import jax
import numpy as np
with open(sys.argv[1], "rb") as file:
    tower = jax.export.deserialize(bytearray(file.read()))
with np.load(sys.argv[2]) as inputs:
    found = tower.call(inputs["ids"], inputs["lengths"])
np.save(sys.argv[3], found)
assert not any(name.startswith(("jaxembed", "flax")) for name in sys.modules)
"""


def test_exported_tower_gives_the_same_vectors_without_the_models_code(tmp_path):
    module = TextTransformer(9, 8, 1, 8, 2, max_length=4)
    ids = jax.numpy.asarray([[3, 1, 4, 1], [5, 8, 2, 6], [5, 3, 5, 8]], "int32")
    lengths = jax.numpy.asarray([2, 4, 1], "int32")
    variables = draw_params(module, ids, lengths)
    file = tmp_path / "tower.jaxexport"
    size = export_encoder(file, module.apply, variables, (ids[:1], lengths[:1]))
    assert file.stat().st_size == size > sum(v.nbytes for v in jax.tree.leaves(variables))
    np.savez(tmp_path / "inputs.npz", ids=ids, lengths=lengths)
    paths = [file, tmp_path / "inputs.npz", tmp_path / "found.npy"]
    code = [sys.executable, "-c", READER, *map(str, paths)]
    done = subprocess.run(code, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    wanted = module.apply(variables, ids, lengths)
    np.testing.assert_allclose(np.load(paths[2]), wanted, atol=1e-5)


def test_inputs_without_a_batch_are_refused(tmp_path):
    with pytest.raises(ValueError, match="the batch, each"):
        export_encoder(tmp_path / "x", lambda p, x: x, {}, (jax.numpy.ones(()),))


@pytest.mark.parametrize("pool", ["class", "mean", "attention"])
def test_image_towers_export_for_any_batch(tmp_path, pool):
    module = VisionTransformer((8, 8, 1), 4, 8, 2, 8, 2, pool=pool)
    images = jax.random.normal(jax.random.key(0), (3, 8, 8, 1))
    variables = draw_params(module, images)
    file = tmp_path / "tower.jaxexport"
    export_encoder(file, module.apply, variables, (images[:1],))
    tower = jax.export.deserialize(bytearray(file.read_bytes()))
    np.testing.assert_allclose(tower.call(images), module.apply(variables, images), atol=1e-5)
