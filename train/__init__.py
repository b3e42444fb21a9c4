"""Training a HAT: the paper's recipe (Sec. 4.2), configurable, resumable, on one device or many.

Names are imported when they are first used, so that ``hat train --help`` costs no import of torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
