"""How fast a job goes, as somebody sees it who looks at it now and then."""

from collections import deque

_WINDOW_S = 30.0


class Speed:
    """Images per second over the last half minute."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def images_per_s(self, settled: int, now_s: float) -> float:
        self._samples.append((now_s, settled))
        while now_s - self._samples[0][0] > _WINDOW_S:
            self._samples.popleft()
        first_s, first_settled = self._samples[0]
        return (settled - first_settled) / (now_s - first_s) if now_s > first_s else 0.0
