"""``fastlstm.losses``: the module ``training.losses`` under the name that it has in Keras, for imports."""

import sys

from .training import losses
from .training.losses import *  # noqa: F403 (what a type checker sees)

sys.modules[__name__] = losses
