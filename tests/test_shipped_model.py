"""The model that ships is there whole, or not at all."""

import hat.embedder
from hat.embedder import SHIPPED_NAME, shipped_model


def test_a_model_ships_whole_or_not_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(hat.embedder, "__file__", str(tmp_path / "embedder.py"))
    assert shipped_model() is None
    folder = tmp_path / "models" / SHIPPED_NAME
    folder.mkdir(parents=True)
    for name in ("model.safetensors", "config.json"):
        (folder / name).touch()
        assert shipped_model() is None
    (folder / "MODEL_CARD.md").touch()
    assert shipped_model() == folder
