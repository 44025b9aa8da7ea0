"""History: what ``fit`` returns: loss and metrics of every epoch, and a drawing of them (needs the extra ``[plot]``)."""

from __future__ import annotations

from typing import Any

from .callback import Callback, Logs


class History(Callback):
    """``epoch``: the numbers of the epochs, from 0; ``history``: {"loss": [one value an epoch], "val_loss": …}."""

    def __init__(self) -> None:
        super().__init__()
        self.epoch: list[int] = []
        self.history: dict[str, list[Any]] = {}
        self._seen: dict[str, list[int]] = {}  # the epochs, from 1, of each list in ``history``: validation may skip some

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.epoch, self.history, self._seen = [], {}, {}

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self.epoch.append(epoch)
        for key, value in (logs or {}).items():
            self.history.setdefault(key, []).append(value)
            self._seen.setdefault(key, []).append(epoch + 1)

    def plot(self, keys: Any = None, path: Any = None) -> Any:
        """Draws one panel a quantity over the epochs, its validation dashed. Returns the matplotlib Figure.

        Args: ``keys``: names of the quantities to draw, without "val_" (None: all); ``path``: where to write the picture.
        ImportError without matplotlib; ValueError where there is nothing to draw, and for unknown names.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError("History.plot needs the package matplotlib: pip install 'fastlstm[plot]'") from error
        known = [key for key in self.history if key.removeprefix("val_") not in self.history or not key.startswith("val_")]
        names = known if keys is None else [keys] if isinstance(keys, str) else list(keys)
        unknown = [name for name in names if name not in self.history]
        if unknown or not names:
            raise ValueError(f"The argument `keys` must name quantities of the history: {known}. Received: keys={keys!r}")
        figure = Figure(figsize=(4.5 * len(names), 3.5), layout="constrained")  # no pyplot: opens no window, keeps no state
        panels = figure.subplots(1, len(names), squeeze=False)[0]
        for panel, name in zip(panels, names, strict=True):
            self._draw(panel, name)
        if path is not None:
            figure.savefig(path)
        return figure

    def _draw(self, panel: Any, name: str) -> None:
        for key, style in ((name, "-"), (f"val_{name}", "--")):
            values = self.history.get(key)
            if values:
                panel.plot(self._seen[key], values, style, marker="." if len(values) == 1 else "", label=key)
        panel.set_xlabel("epoch")
        panel.set_title(name)
        panel.legend()
