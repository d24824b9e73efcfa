"""Every network with every method in 2D, 3D and anisotropic 3D: one step, save, load, predict, the same again."""

import numpy as np
import pytest
import torch
from small_sets import discs, tiny_plan

from biosegkit.bundle import load, write_bundle
from biosegkit.grid import Grid
from biosegkit.image import Image
from biosegkit.loop import make_network, train
from biosegkit.methods import METHODS
from biosegkit.nets import NETS
from biosegkit.patches import Sample, foreground_voxels
from biosegkit.plan.networks import NETWORKS
from biosegkit.plan.schema import Augmentation
from biosegkit.segmenter import Segmenter, method_of

CPU = torch.device("cpu")
#: Sizes are padded to multiples of 32: this network sees the image once, and not in dozens of padded tiles and mirrors.
SPARING = {"swinunetr": {"patch": (20, 20, 20), "augmentation": Augmentation(mirror_axes=(2,))}}
KINDS = {"2d": (2, False, (21, 26)), "3d": (3, False, (18, 17, 20)), "anisotropic": (3, True, (6, 20, 19))}


def product():
    """The full product; by default every network with two methods and every method with the U-Net."""
    for net in NETS:
        for method in METHODS:
            corner = net == "unet" or method in ("semantic", "distance")
            for kind, (ndim, _, _) in KINDS.items():
                if ndim not in NETWORKS[net].ndims:
                    continue
                yield pytest.param(net, method, kind, marks=() if corner else (pytest.mark.full,))


@pytest.mark.parametrize(("net", "method", "kind"), list(product()))
def test_one_step_saved_loaded_and_predicted_is_the_same(net, method, kind, tmp_path):
    ndim, anisotropic, shape = KINDS[kind]
    task = "semantic" if method == "semantic" else "instance"
    plan = tiny_plan(ndim, task=task, method=method, network=net, anisotropic=anisotropic, steps=1, values=(0, 1, 2, 3),
                     schedule="poly", **SPARING.get(net, {}))
    image, labels = discs(shape, count=3, radius=3)
    image = (image / 255).astype(np.float32)
    sample = Sample("a", image[None], labels, None, foreground_voxels(labels, task, 0))
    start = make_network(plan, method_of(plan), CPU).state_dict()
    weights = train(plan, method_of(plan), [sample], [sample], tmp_path / "fold-0", device=CPU)
    assert any(not torch.equal(start[k], v) for k, v in weights.items())

    network = make_network(plan, method_of(plan), CPU)
    network.load_state_dict(weights)
    grid = Grid.regular(shape, plan.configuration.spacing)
    whole = Image(image[None], grid)
    before = Segmenter(plan, (network.eval(),), CPU, {})
    write_bundle(tmp_path / "bundle", plan, {"0": weights})
    after = load(tmp_path / "bundle", "cpu")
    a, b = before.maps(whole), after.maps(whole)
    heads = {h.name: h.channels for h in method_of(plan).heads(ndim)}
    assert {k: v.shape for k, v in b.items()} == {k: (c, *shape) for k, c in heads.items()}
    for name in a:
        assert np.isfinite(a[name]).all()
        assert np.array_equal(a[name], b[name])
    x, y = before.predict(whole), after.predict(whole)
    assert x.labels.array.shape == shape
    assert x.labels.grid == grid
    assert np.array_equal(x.labels.restored(), y.labels.restored())
    mirrored = after.predict(whole, tta=True)
    assert mirrored.labels.array.shape == shape
