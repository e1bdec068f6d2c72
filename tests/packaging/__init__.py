"""The distributions, as somebody else gets them."""
