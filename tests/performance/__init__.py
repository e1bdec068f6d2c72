"""What the manager costs where that can be said without a clock: calls of functions, bytes, and growth over time."""
