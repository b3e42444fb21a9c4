"""Exported files that are proven to rank people as the trained model does.

Names are imported when they are first used, so that the help of a command costs no import of torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
