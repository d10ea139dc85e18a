"""The books of a node beside every process's truth, after random programs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import actorflow as af
from tests.system import bodies, book_programs

STORE_BYTES = 64 * 1024 * 1024  # so that there is spilling


@pytest.fixture(scope="module")
def books() -> Iterator[book_programs.Books]:
    with af.init(num_cpus=4, object_store_memory=STORE_BYTES, log_to_driver=False):
        bodies.start_futures()
        made = book_programs.Books()
        yield made
        made.close()


def test_books_agree_after_a_random_program(books: book_programs.Books, program_seed: int) -> None:
    """A failing seed is in the test's name and runs alone (`--programs 17:18`)."""
    book_programs.run(program_seed, books)
