"""Where callables run: on the loop, on threads, on the loop's own thread, or where a foreign manager runs them."""
