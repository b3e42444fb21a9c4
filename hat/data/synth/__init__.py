"""Drawn pedestrians: a multi-camera re-ID data set that needs nothing from outside.

Identities (clothes, build, skin tone, hair, shoes, bag) are stable; cameras differ in viewpoint, light, optics, background and
in how well the detector's boxes fit. NumPy and Pillow draw everything.
"""

from .camera import MAX_IDENTITIES, draw_distractor, draw_person
from .generate import SynthSummary, generate_dataset
from .wardrobe import Person, make_person

__all__ = ["MAX_IDENTITIES", "Person", "SynthSummary", "draw_distractor", "draw_person", "generate_dataset", "make_person"]
