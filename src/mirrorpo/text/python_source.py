"""Python source as a tree, without a word to the log."""

import ast
import warnings


def parsed(source: str) -> ast.Module | None:
    r"""The tree of some source; None where it is no Python, however it fails to be.

    Example:
        >>> parsed("x = '\\.'") is None, parsed("x =") is None
        (False, True)
    """
    with warnings.catch_warnings():
        # A dataset's or a model's "\." is no concern of the trainer's log.
        warnings.simplefilter("ignore")
        try:
            return ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None
