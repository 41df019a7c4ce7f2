"""Checks of numbers that are passed in. Every error names the argument, what was expected and what came."""


def require_positive(**counts: int) -> None:
    """Raise ValueError unless every count is at least 1, given by name: `require_positive(horizon=horizon)`."""
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name}: expected at least 1, got {count}")


def require_several(**counts: int) -> None:
    """Raise ValueError unless every count, given by name, is at least 2: a standard error needs two numbers."""
    for name, count in counts.items():
        if count < 2:
            raise ValueError(f"{name}: expected at least 2, which errors are taken over, got {count}")


def require_share(**shares: float) -> None:
    """Raise ValueError unless every number, given by name, is a share in [0, 1]."""
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ValueError(f"{name}: expected a share in [0, 1], got {share}")
