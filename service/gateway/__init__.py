"""The HTTP side. Never imports torch."""
