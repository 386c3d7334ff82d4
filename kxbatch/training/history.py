"""The history of a training: a line for every few steps and for every validation.

It is kept with the states: a run that goes on from a state takes over the lines up to its step and writes the rest anew,
so that no step is told twice. TensorBoard gets the same numbers.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import orjson

from kxbatch.data.storage import Folder

HISTORY = "history.jsonl"
_EVENTS = "tensorboard"


class History:
    """Lines of one training, oldest first.

    Args:
        folder: where it is kept.
        step: lines up to this step are taken over from an earlier run.
    """

    def __init__(self, folder: Folder, step: int) -> None:
        self._folder = folder
        self.lines = [line for line in read_history(folder) if line["step"] <= step] if step else []
        if not step:  # events of an earlier training would be drawn into the same curves
            for name in folder.child(_EVENTS).names():
                folder.child(_EVENTS).remove(name)
        self._place = Path(tempfile.mkdtemp(prefix="kxbatch-events-"))
        self._writer = _event_writer(self._place, step)

    def add(self, line: dict[str, Any]) -> None:
        """A line; it is on disk with the next `publish`."""
        self.lines.append(line)
        if self._writer is not None:
            for name, value in line.items():
                if isinstance(value, int | float) and name != "step":
                    self._writer.add_scalar(name, value, line["step"])

    def publish(self) -> None:
        """Make it visible as far as it goes."""
        self._folder.publish_bytes(HISTORY, b"".join(orjson.dumps(line) + b"\n" for line in self.lines))
        if self._writer is not None:
            self._writer.flush()
            for path in self._place.iterdir():
                self._folder.child(_EVENTS).publish_bytes(path.name, path.read_bytes())

    def close(self) -> None:
        """Publish the rest and free what is held."""
        try:
            self.publish()
        finally:
            if self._writer is not None:
                self._writer.close()
            shutil.rmtree(self._place, ignore_errors=True)


class Line:
    """What came together since the last line of the history.

    Attributes:
        recent: losses of the last five steps, those of earlier lines too.
        rate: of the last step.
    """

    def __init__(self) -> None:
        self.recent: list[float] = []
        self.rate = 0.0
        self._clear()

    def _clear(self) -> None:
        self._losses: list[float] = []
        self._norm = self._seconds = 0.0
        self._tokens = self._padding = 0

    def add(self, losses: list[float], norm: float, seconds: float, tokens: int, padding: int) -> None:
        """Some steps.

        Args:
            losses: of each of them.
            norm: the gradient's, of the last one.
            seconds: they took.
            tokens: of their rows, over all processes, padding left out.
            padding: tokens that only fill up.
        """
        self._losses += losses
        self.recent = (self.recent + losses)[-5:]
        self._norm, self._seconds = norm, self._seconds + seconds
        self._tokens, self._padding = self._tokens + tokens, self._padding + padding

    def taken(self, step: int, epoch: float) -> dict[str, Any]:
        """The line, and begin anew."""
        seconds = max(self._seconds, 1e-9)
        line = {
            "step": step,
            "epoch": epoch,
            "loss": sum(self._losses) / max(1, len(self._losses)),
            "rate": self.rate,
            "gradient_norm": self._norm,
            "steps_per_second": round(len(self._losses) / seconds, 4),
            "tokens_per_second": round(self._tokens / seconds, 1),
            "padding_share": round(self._padding / max(1, self._tokens + self._padding), 4),
        }
        self._clear()
        return line


def read_history(folder: Folder) -> list[dict[str, Any]]:
    """The lines as published; one that is no JSON object with a step is left out."""
    try:
        data = folder.read(HISTORY)
    except FileNotFoundError:
        return []
    found = []
    for raw in data.splitlines():
        try:
            line = orjson.loads(raw)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            found.append(line)
    return found


def _event_writer(place: Path, step: int) -> Any:
    """A writer of TensorBoard events; None where tensorboard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(place), purge_step=step + 1 if step else None)
