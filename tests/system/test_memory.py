"""However long a vendor's answer is: no provider takes more than 300 MB for it, its libraries included."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

#: A job at a fake vendor, which is asked for three times and whose answers do not end; prints the process's peak in MB.
CHILD = """
import os, sys
from pathlib import Path

import faults
from llmtune import testing
from llmtune.errors import TransientError
from llmtune.provider.types import RunKey

os.environ |= dict.fromkeys((*faults.KEYS, *faults.OTHER_KEYS), "k" * 20)
place = next(place for place in faults.PLACES if place.name == sys.argv[1])
rows = Path(sys.argv[2]) / "rows.jsonl"
rows.write_text("".join(faults.json.dumps(faults._row(n, 1)) + chr(10) for n in range(120)), encoding="utf-8")
with faults._named(place.fake)() as vendor:
    provider_class = faults._named(place.provider)
    provider = provider_class(place.name, provider_class.Settings.model_validate(place.settings(vendor)))
    options = {place.name: place.options} if place.options else {}
    job = faults.TuningJob(name="one", dataset=str(rows), model={place.name: place.model}, provider_options=options)
    job_ref = faults.start(job, provider, yes=True).job_ref
    vendor.faults.add(testing.endless(1 << 30), role="poll", times=3)
    for _ in range(3):
        try:
            provider.poll(job_ref, None)
        except TransientError:
            continue
        raise SystemExit("an endless answer was taken for one")
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak.split()[1]) // 1024)
"""

SLOW = pytest.mark.slow
#: One of each HTTP client in every test run (httpx, boto3's, Google's); the others have the same ones.
PROVIDERS = ["openai", "bedrock", "vertex"]
MORE_PROVIDERS = ["fake", "nebius", "azure", "together", "cohere", "sagemaker"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("provider", [*PROVIDERS, *(pytest.param(name, marks=SLOW) for name in MORE_PROVIDERS)])
def test_an_endless_body_takes_little_memory(provider: str, tmp_path: Path) -> None:
    paths = [str(BENCHMARKS), *(path for path in sys.path if path)]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "LLMTUNE_HOME": str(tmp_path / "home"),
        "LLMTUNE_CONFIG": str(tmp_path / "no-config.toml"),
        "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
    }
    environment.pop("LLMTUNE_STORE", None)
    child = subprocess.run(
        [sys.executable, "-c", CHILD, provider, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert child.returncode == 0, child.stderr[-2000:]
    assert int(child.stdout) < 300
