"""What needs a GPU, prepared for a machine that is there for minutes: ``python -m tools.gpu``."""
