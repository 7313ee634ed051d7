"""The emoji world and the trainers of the shipped demo."""
