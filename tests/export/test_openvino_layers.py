"""Which layers OpenVINO's int8 leaves in floating point, beside NNCF told to leave out all others, and one fewer."""

from types import SimpleNamespace

import pytest

from hat.errors import WorkError
from hat.export.request import ExportRequest

pytest.importorskip("openvino", reason="the extra export is not installed")
pytest.importorskip("nncf", reason="the extra export is not installed")

from hat.export.openvino import int8
from hat.export.openvino.layer_losses import embed, layer_losses
from hat.export.openvino.to_openvino import export_openvino
from hat.runtime.openvino_runtime import OpenVINORuntime, openvino_core, read_openvino_model

PLAIN = {"bias_correction": "none", "smooth_quant": False, "subset_size": 6}  # without the seconds that remedies take


@pytest.fixture(scope="module")
def export(small_model, calibration, tmp_path_factory):
    """Export in int8 with options, and give the file, its metadata, and the mean cosine that calibration images lost."""
    folder = tmp_path_factory.mktemp("layers")
    float_rows = []

    def run(**options):
        path = folder / f"{len(list(folder.iterdir()))}.xml"
        precision = {"precision": "int8", "calibration": calibration, "options": PLAIN | options} if options else {}
        info = export_openvino(small_model, path, ExportRequest(name="small", **precision))
        rows = OpenVINORuntime(path).run(calibration.images[:6])
        float_rows.append(rows)
        return SimpleNamespace(path=path, info=info, details=info.details, lost=1 - (rows * float_rows[0]).sum(axis=1).mean())

    run()
    return run


def test_a_layers_loss_is_that_of_a_file_in_which_it_alone_is_int8(export, small_model, calibration, tmp_path):
    plain = int8.OpenVINOQuantization(**PLAIN)
    path = tmp_path / "float.xml"
    core = openvino_core("testing")
    model = read_openvino_model(path, export_openvino(small_model, path), core)
    images = [image[None] for image in calibration.images[:6]]
    losses = layer_losses(int8._quantize(model, images, plain, with_quantizers=True), images, embed(model, images))
    products = len(losses)
    assert products == export(max_drop=1).details["num_products"] - 1 > 30, "all but the projection"
    assert len({loss.layer for loss in losses}) == products
    by_loss = sorted(losses, key=lambda loss: loss.mean)
    for loss in (by_loss[-1], by_loss[products // 2]):
        alone = export(max_drop=1, ignored_names=[other.layer for other in losses if other is not loss])
        assert len(alone.details["float_products"]) == products
        assert loss.mean == pytest.approx(alone.lost, rel=0.1, abs=1e-6)
        assert loss.worst >= loss.mean


def test_the_fewest_layers_go_back_to_floats_for_the_stated_drop(export):
    whole = export(max_drop=1)
    assert whole.details["cosine_drop"] == pytest.approx(whole.lost, rel=0.01)
    assert "layers_left_out" not in whole.details
    allowed = float(whole.lost) / 3
    made = export(max_drop=allowed)
    left_out = list(made.details["layers_left_out"])
    assert 0 < len(left_out) < whole.details["num_products"] / 2
    (projection,) = set(made.details["float_products"]) - set(left_out)
    assert projection.startswith("projection/") and len(made.details["float_products"]) == len(left_out) + 1
    assert made.details["cosine_drop"] <= allowed and made.lost <= 1.01 * allowed
    layers = made.details["sensitivity"]["layers"]
    assert {layer["layer"] for layer in layers if layer["excluded"]} == set(left_out)
    costs = [layer["mean"] for layer in sorted(layers, key=lambda layer: not layer["excluded"])]
    assert min(costs[: len(left_out)]) >= max(costs[len(left_out) :]), "those that cost most by themselves"
    assert export(max_drop=1, ignored_names=left_out[:-1]).lost > allowed, "one fewer is too few"


def test_a_drop_that_no_int8_meets_is_refused(export):
    with pytest.raises(WorkError, match="no layer is left to compute in int8"):
        export(max_drop=1e-12, ignored_patterns=["mfe.layer.*", "bottlenecks.*", "dsa.*"])  # the first convolution is left
