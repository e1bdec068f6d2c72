"""A loop that a synchronous test turns by hand: it runs until it is quiet, and time moves only when it is told to."""

from collections.abc import Callable
from typing import Any

from qorzen_obs.testing import VirtualTimeLoop

_FAR_SECONDS = 1e9
_MAX_TURNS = 1_000  # until all is quiet, which takes a few dozen
_AT_ONCE_SECONDS = 1e-6  # below this a timer is a matter of rounding, and due


class SteppedLoop(VirtualTimeLoop):
    """`run_until_quiet` runs all that is ready; `advance` lets time pass, timer by timer, quiet at each of them."""

    def __init__(self, on_rest: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.on_rest = on_rest
        self.complaints: list[str] = []
        self._next_timer_in = 0.0
        self._turns = 0
        self.set_exception_handler(self._complain)
        self.call_later(_FAR_SECONDS, lambda: None)  # so that there is always a next timer to stop at

    def jump(self, seconds: float) -> None:
        """Nothing is ready: stop where a running loop would sleep."""
        if seconds < _AT_ONCE_SECONDS:
            super().jump(seconds)
        else:
            self._next_timer_in = seconds
            self.stop()

    def run_until_quiet(self) -> None:
        """Run until nothing is ready, then look at what is true at rest."""
        self._turns = 0
        self.run_forever()
        self.on_rest()

    def _run_once(self) -> None:
        self._turns += 1
        if self._turns > _MAX_TURNS:
            raise AssertionError("the loop does not come to rest")
        super()._run_once()  # type: ignore[misc]  # asyncio's own: one turn

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass."""
        end = self.time() + seconds
        while self.time() + self._next_timer_in <= end:
            super().jump(self._next_timer_in)
            self.run_until_quiet()
        super().jump(end - self.time())
        self.run_until_quiet()

    def _complain(self, _: Any, context: dict[str, Any]) -> None:
        self.complaints.append(f"{context['message']}: {context.get('exception')!r}")
