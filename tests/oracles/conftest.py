"""What the oracles' tests share."""

import jaxtyping
import pytest


@pytest.fixture
def unannotated():
    """The library as a user has it, whose annotations are not checked: its own errors must name what is wrong."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
