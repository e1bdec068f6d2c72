"""Where callables run: on the loop, on threads, on the loop's own thread, or wherever a foreign manager says."""
