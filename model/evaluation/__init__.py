"""EmojiGenEval: does a picture show what its prompt asks for? GenEval's tasks and rules (arXiv 2310.11513)."""
