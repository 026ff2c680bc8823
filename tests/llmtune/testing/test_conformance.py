"""The neutral fake provider passes the suite, in each class of submit safety."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from llmtune.testing.conformance import ConformanceSuite
from llmtune.testing.fake_provider import FakeProvider, FakeSettings
from llmtune.testing.generic_vendor import Fake
from llmtune.testing.markers import Mark, never


class _Fake(ConformanceSuite):
    safety: ClassVar[Literal["token", "searchable", "none"]] = "token"
    deployment: ClassVar[Literal["none", "optional", "required"]] = "none"

    @pytest.fixture
    def vendor(self) -> Iterator[Fake]:
        with Fake() as fake:
            yield fake

    @pytest.fixture
    def provider(self, vendor: Fake) -> FakeProvider:
        settings = FakeSettings(
            base_url=vendor.url, submit_safety=self.safety, window=0.3, deployment=self.deployment, timeout=5
        )
        return FakeProvider("fake", settings)


class TestToken(_Fake):
    pass


class TestSearchable(_Fake):
    safety = "searchable"
    deployment = "required"


class TestNone(_Fake):
    safety = "none"
    deployment = "optional"


class TestMarksMustBeRight:
    def test_a_mark_on_a_test_that_does_not_exist_is_refused(self) -> None:
        with pytest.raises(TypeError, match="test_nothing"):

            class Wrong(ConformanceSuite):
                marks: ClassVar[dict[str, Mark]] = {"test_nothing": never("no")}

    @pytest.mark.slow
    def test_a_mark_that_has_become_wrong_fails(self, tmp_path: Path) -> None:
        (tmp_path / "test_marked.py").write_text(MARKED)
        alone = ("-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), "-c", os.devnull, "-rxXf")
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *alone, "-k", "cancel_stops or metrics_are", "test_marked.py"],
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        assert "1 failed" in done.stdout, done.stdout
        assert "1 xfailed" in done.stdout, done.stdout
        assert "[XPASS(strict)] never: wrong: it can" in done.stdout, done.stdout


MARKED = """
import pytest
from llmtune.testing.conformance import ConformanceSuite, never, notyet
from llmtune.testing.generic_vendor import Fake
from llmtune.testing.fake_provider import FakeProvider, FakeSettings

class TestFake(ConformanceSuite):
    marks = {
        "test_cancel_stops_the_job": never("wrong: it can"),
        "test_metrics_are_reported": notyet("right: its jobs make no steps"),
    }

    @pytest.fixture
    def vendor(self):
        with Fake() as fake:
            fake.steps = 0
            yield fake

    @pytest.fixture
    def provider(self, vendor):
        return FakeProvider("fake", FakeSettings(base_url=vendor.url))
"""
