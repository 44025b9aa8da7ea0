"""``fastlstm.optimizers`` and ``.schedules``: modules of ``training`` under the names that they have in Keras, for imports."""

import sys

from .training import optimizers, schedules
from .training.optimizers import *  # noqa: F403 (what a type checker sees)

sys.modules[__name__] = optimizers
sys.modules[f"{__name__}.schedules"] = schedules
