"""The small text and the small recipe of the tests of training."""

from tests.training.conftest import corpus, tiny  # noqa: F401 - fixtures
