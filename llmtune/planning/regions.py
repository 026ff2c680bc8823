"""Where a backend trains, as a condition of a plan: one of its regions by name, or any in the European Union or the US.

The condition is hard: a backend that states no region does not meet it, nor does a rented machine whose region nobody
has stated. This machine meets every condition: the data do not leave it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmtune.errors import InvalidJob, NotTranslatable
from llmtune.provider.cost import CostEstimate
from llmtune.provider.receipt import Receipt
from llmtune.provider.registry import get_provider

if TYPE_CHECKING:
    from llmtune.errors import LlmtuneError

#: Areas by name: how vendors' regions in them begin, and those that begin so and lie outside: London and Zurich.
AREAS: dict[str, tuple[tuple[str, ...], frozenset[str]]] = {
    "eu": (
        ("eu-", "europe-"),
        frozenset(("eu-west-2", "eu-central-2", "europe-west2", "europe-west6", "eu-isoe-west-1")),
    ),
    "us": (("us-",), frozenset()),
}


def select_regions(wanted: str, regions: Sequence[str]) -> tuple[str, ...]:
    """Return those regions that are the wanted one, or in the wanted area ("eu", "us")."""
    if wanted not in AREAS:
        return tuple(region for region in regions if region == wanted)
    beginnings, outside = AREAS[wanted]
    return tuple(region for region in regions if region.startswith(beginnings) and region not in outside)


def check_region(wanted: str) -> str:
    """Return the wanted region as vendors write it, in lower case. Raises `InvalidJob` where it is empty."""
    region = wanted.strip().lower()
    if not region or any(not (letter.isalnum() or letter == "-") for letter in region):
        raise InvalidJob(
            f"{wanted!r} is not the name of a region", where="--region", hint='such as "eu-west-1", "eu" or "us"'
        )
    return region


def keep_in_region(answers: dict[str, Receipt | LlmtuneError], wanted: str) -> dict[str, Receipt | LlmtuneError]:
    """Return the plans, with an error in the place of each backend that does not train in the wanted region.

    A plan whose prices are those of another region loses its estimate.
    """
    return {
        name: _keep_plan(name, answer, wanted) if isinstance(answer, Receipt) else answer
        for name, answer in answers.items()
    }


def _keep_plan(name: str, receipt: Receipt, wanted: str) -> Receipt | LlmtuneError:
    backend = get_provider(receipt.target.provider)
    if not backend.hosted:
        return receipt
    capabilities = backend.capabilities(receipt.target)
    regions = capabilities.regions
    if not select_regions(wanted, regions):
        where = f"trains {receipt.target.model} in {', '.join(regions)}"
        reason = where if regions else f"states no region in which it trains {receipt.target.model}"
        return NotTranslatable(
            f"{name} {reason}, and the plan is for {wanted}", provider=name, hint="plan without --region"
        )
    if problem := explain_other_prices(wanted, regions, capabilities.price.region):
        return receipt.model_copy(update={"cost": CostEstimate(unknown=f"{problem}, not of {wanted}")})
    return receipt


def explain_other_prices(wanted: str, regions: Sequence[str], priced: str) -> str | None:
    """Return why prices do not hold in the wanted region; None where they do, or hold everywhere.

    `regions` are those of the backend, `priced` names where the prices hold, separated by commas; "" is everywhere.
    """
    names = [name.strip() for name in priced.split(",") if name.strip()]
    if not names or set(names) & set(select_regions(wanted, regions)):
        return None
    return f"the prices known are those of {priced}"
