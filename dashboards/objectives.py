"""What is promised of every category: most tasks complete, and most start in time.

Cancelled tasks count for neither side: somebody asked for their end.
"""

from __future__ import annotations

from typing import Final

COMPLETED: Final = 0.99  #: of the tasks that completed or failed
STARTED_IN_TIME: Final = 0.95  #: of the tasks that started
WAIT_SECONDS: Final = 5.0  #: a bound of the histogram of queue wait
