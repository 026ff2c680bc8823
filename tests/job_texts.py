"""The characters that a job may hold: all but NUL and half surrogate pairs, which no store can keep."""

from hypothesis import strategies as st

JOB_CHARACTERS = st.characters(exclude_categories=("Cs",), exclude_characters="\0")
