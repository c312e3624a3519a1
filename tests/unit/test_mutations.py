"""The deliberate bugs can still be put into the scripts: a script that has changed needs its bug written anew."""

from __future__ import annotations

import pytest

from stepflow_broker.protocol import scripts
from tests.property.mutations import AWAY_MUTATIONS, MUTATIONS, UNDO_MUTATIONS, Mutation


@pytest.mark.parametrize("mutation", [*MUTATIONS, *AWAY_MUTATIONS, *UNDO_MUTATIONS], ids=str)
def test_each_deliberate_bug_fits_the_scripts(mutation: Mutation) -> None:
    texts = {edit.file: (scripts._FOLDER / edit.file).read_text() for edit in mutation.edits}
    for edit in mutation.edits:
        texts[edit.file] = edit.applied(texts[edit.file])
