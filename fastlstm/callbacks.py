"""``fastlstm.callbacks``: the module ``training.callbacks`` under the name that it has in Keras, for imports."""

import sys

from .training import callbacks
from .training.callbacks import *  # noqa: F403 (what a type checker sees)

sys.modules[__name__] = callbacks
