"""The law that readers of files are under, with some damaged files each time; tox -e fuzz tries more."""

import pytest
from choices import Choices
from hypothesis import given, settings
from hypothesis import strategies as st
from law import Laws


@pytest.fixture(scope="module")
def laws(tmp_path_factory):
    return Laws(tmp_path_factory.mktemp("laws"))


@settings(max_examples=400, deadline=None)
@given(data=st.binary(min_size=20, max_size=400))
def test_a_damaged_file_ends_within_bounds_in_one_line_or_works(laws, data):
    laws.check(Choices(data))
