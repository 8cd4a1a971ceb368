"""The performance page shows the committed results, and nothing else."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # benchmarks are not part of the package

from benchmarks import tables


def test_the_page_shows_the_committed_results():
    page = tables.PAGE.read_text()
    assert tables.filled(page) == page, "run python -m benchmarks.tables"
    assert len(tables.TABLES) == page.count("<!-- /")
