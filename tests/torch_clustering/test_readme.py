"""The examples of the package's README run as they stand."""

import doctest
from pathlib import Path

import torch_clustering


def test_examples_of_the_readme_print_what_they_say() -> None:
    readme = Path(torch_clustering.__file__).parent / "README.md"
    result = doctest.testfile(str(readme), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 5 and result.failed == 0
