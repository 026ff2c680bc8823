"""How much of an answer's JSON is right: a metric of one's own, named in job.yaml as `fields:right`."""

import json


def right(expected: str, got: str) -> float:
    """Share of the expected fields that the answer has with the same value; 0 where it is no JSON object."""
    try:
        found = json.loads(got)
    except ValueError:
        return 0.0
    wanted = json.loads(expected)
    if not isinstance(found, dict):
        return 0.0
    return float(sum(name in found and found[name] == value for name, value in wanted.items()) / len(wanted))
