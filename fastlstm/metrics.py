"""``fastlstm.metrics``: the module ``training.metrics`` under the name that it has in Keras, for imports."""

import sys

from .training import metrics
from .training.metrics import *  # noqa: F403 (what a type checker sees)

sys.modules[__name__] = metrics
