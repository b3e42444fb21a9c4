"""HAT: person re-identification with Hierarchical Aggregation Transformers, from training to a ranked gallery.

Names are imported when they are first used, so that ``import hat`` and ``hat --help`` cost no import of torch.
"""

import lazy_loader

from hat.process_settings import disable_telemetry

disable_telemetry()

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
