"""Text for the embedded base model: documentation that comes with permissively licensed Python packages.

Nothing is downloaded. The text is what a development environment of this repository already holds: documentation
strings of CPython's library and of installed packages under BSD, MIT or Apache licences, CPython's `pydoc` topics, and
the API documentation inside botocore's service models. Every source's licence is read from its own metadata and must
be permissive, or the source is left out and said so.
"""

from __future__ import annotations

import ast
import gzip
import html
import importlib.metadata as metadata
import importlib.util
import json
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

PERMISSIVE = re.compile(r"\b(MIT|BSD|Apache|PSF|Python Software Foundation|0BSD|HPND|ISC)", re.IGNORECASE)
COPYLEFT = re.compile(r"\b(A?GPL|LGPL|MPL|EPL|CDDL|Mozilla|GNU|Affero)", re.IGNORECASE)

#: distribution -> (import package, cap in characters kept). The caps keep one large package from being the corpus.
PACKAGES: dict[str, tuple[str, int]] = {
    "numpy": ("numpy", 900_000),
    "scipy": ("scipy", 1_500_000),
    "scikit-learn": ("sklearn", 1_500_000),
    "pandas": ("pandas", 1_200_000),
    "networkx": ("networkx", 700_000),
    "nltk": ("nltk", 700_000),
    "torch": ("torch", 1_500_000),
    "transformers": ("transformers", 1_500_000),
    "peft": ("peft", 300_000),
    "accelerate": ("accelerate", 300_000),
    "huggingface-hub": ("huggingface_hub", 500_000),
    "pydantic": ("pydantic", 300_000),
    "SQLAlchemy": ("sqlalchemy", 1_000_000),
    "optuna": ("optuna", 300_000),
    "pytest": ("_pytest", 200_000),
    "rich": ("rich", 100_000),
    "Jinja2": ("jinja2", 100_000),
    "Werkzeug": ("werkzeug", 300_000),
    "Flask": ("flask", 200_000),
    "requests": ("requests", 100_000),
    "httpx": ("httpx", 100_000),
    "fsspec": ("fsspec", 200_000),
    "jsonschema": ("jsonschema", 50_000),
    "setuptools": ("setuptools", 300_000),
    "pip": ("pip", 400_000),
    "pillow": ("PIL", 150_000),
    "cryptography": ("cryptography", 50_000),
    "psutil": ("psutil", 100_000),
    "openai": ("openai", 600_000),
    "cohere": ("cohere", 300_000),
    "together": ("together", 300_000),
    "google-genai": ("google.genai", 800_000),
    "google-cloud-storage": ("google.cloud.storage", 500_000),
    "google-cloud-bigquery": ("google.cloud.bigquery", 500_000),
    "google-cloud-aiplatform": ("google.cloud.aiplatform", 800_000),
    "azure-mgmt-cognitiveservices": ("azure.mgmt.cognitiveservices", 300_000),
    "moto": ("moto", 100_000),
}
BOTOCORE_CAP = 14_000_000
#: botocore services about customer support and contact centres: close to the demo's task, so never read.
SERVICES_LEFT_OUT = re.compile(
    r"^(support|connect|qconnect|wisdom|customer-profiles|voice-id|appintegrations|repostspace)"
)
#: paragraphs that come near the demo's task or name the evaluation sets are dropped.
NEVER = re.compile(
    r"banking[- _]?77|\bsst-?2\b|gsm-?8k|\btickets?\b|help.?desk|support (case|request|agent)"
    r"|customer (support|service)|call cent|contact cent|intent classif",
    re.IGNORECASE,
)


@dataclass
class Source:
    """What one source gave."""

    name: str
    version: str
    licence: str
    files: int = 0
    documents: int = 0
    characters: int = 0


@dataclass
class Corpus:
    """Prose documents, and (name, description) pairs for the naming exercises."""

    documents: list[str] = field(default_factory=list)
    names: list[tuple[str, str, str]] = field(default_factory=list)
    """(package or service, snake_case name, first sentence of its documentation)."""
    sources: list[Source] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def licence_of(distribution: metadata.Distribution) -> str | None:
    """Return the licence that a distribution declares, or None if it is not clearly permissive."""
    meta = distribution.metadata
    classifiers = [c.split("::")[-1].strip() for c in meta.get_all("Classifier") or [] if c.startswith("License")]
    named = ", ".join(c for c in classifiers if c != "OSI Approved")
    first_line = (meta.get("License") or "").strip().split("\n")[0]
    text = (meta.get("License-Expression") or "").strip() or named or first_line
    if not PERMISSIVE.search(text) or COPYLEFT.search(text):
        return None
    return text if len(text) < 60 else text[:57] + "..."


ROLE = re.compile(r":[\w:+.-]+:`~?([^`<]+?)(?: <[^`]*>)?`")
LINK = re.compile(r"`([^`<]+?)\s*<[^`]*>`_{0,2}")
TICKS = re.compile(r"`{1,2}([^`]+)`{1,2}_{0,2}")
FIELD = re.compile(
    r"^:(?:param|arg|ivar|cvar|type|keyword|raises?|returns?|rtype|vartype)\b\s*([^:]*):\s*", re.MULTILINE
)
SKIP_LINE = re.compile(r"^\s*(>>>|\.\.\.|\.\. |[-=~^*+#|]{3,}|[|+]|\$|@|\{%|```)")
WORD = re.compile(r"[A-Za-z][a-z]*(?:'[a-z]+)?")


def prose(raw: str) -> list[str]:
    """Extract the paragraphs of a docstring that are English prose: no code, tables, formulas or markup."""
    text = LINK.sub(r"\1", ROLE.sub(r"\1", raw))
    text = FIELD.sub(lambda m: f"{m.group(1)}: " if m.group(1) else "", TICKS.sub(r"\1", text))
    paragraphs = []
    for block in re.split(r"\n\s*\n", text):
        lines = [line.strip() for line in block.splitlines() if not SKIP_LINE.match(line)]
        paragraph = re.sub(r"\s+", " ", " ".join(lines)).strip()
        if is_prose(paragraph):
            paragraphs.append(paragraph)
    return paragraphs


def is_prose(paragraph: str) -> bool:
    """Mostly words, at least six of them, and nothing of what the model must never see."""
    tokens = WORD.findall(paragraph)
    if len(tokens) < 6 or len(paragraph) > 2500 or not paragraph.isascii():
        return False
    plain = sum(c.isalpha() or c in " ,.'" for c in paragraph)
    return plain / len(paragraph) > 0.92 and paragraph.count("_") <= 3 and not NEVER.search(paragraph)


def snake(name: str) -> str:
    """CamelCase to snake_case."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def first_sentence(paragraph: str) -> str:
    """Return the first sentence, if it has 20 to 220 characters, or ''."""
    match = re.match(r"(.{20,220}?[.!?])(?:\s|$)", paragraph)
    return match.group(1) if match else (paragraph if 20 <= len(paragraph) <= 160 else "")


def python_docs(root: Path, limit: int | None = None) -> Iterator[tuple[Path, str, str]]:
    """(file, definition name, documentation string) of every Python file below `root`, in a fixed order."""
    skipped = {"tests", "test", "site-packages", "idlelib"}
    files = sorted(p for p in root.rglob("*.py") if not skipped & set(p.relative_to(root).parts))
    for path in files[:limit]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                text = ast.get_docstring(node)
                if text and len(text) > 40:
                    yield path, getattr(node, "name", ""), text


def _gather_python(corpus: Corpus, source: Source, root: Path, cap: int, texts: set[str], limit: int | None) -> None:
    package = source.name.split()[0].lower()
    files: set[Path] = set()
    for path, name, text in python_docs(root, limit):
        files.add(path)
        paragraphs = [p for p in prose(text) if not (p in texts or texts.add(p))]  # type: ignore[func-returns-value]
        if not paragraphs:
            continue
        plain = snake(name.strip("_"))
        if (summary := first_sentence(paragraphs[0])) and re.fullmatch(r"[a-z]+(_[a-z]+){1,4}", plain):
            corpus.names.append((package, plain, summary))
        if source.characters < cap:
            document = "\n".join(paragraphs)[:3000]
            corpus.documents.append(document)
            source.documents += 1
            source.characters += len(document)
    source.files = len(files)


def _walk_documentation(node: object, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(node, dict):
        text = node.get("documentation")
        if isinstance(text, str):
            yield key, text
        for child, value in node.items():
            yield from _walk_documentation(value, child)
    elif isinstance(node, list):
        for value in node:
            yield from _walk_documentation(value, key)


def strip_html(text: str) -> list[str]:
    """Paragraphs of a service model's HTML documentation that read as English."""
    text = re.sub(r"</?(p|li|ul|ol|dl|dt|dd|note|important|br)\b[^>]*>", "\n", text)
    text = html.unescape(re.sub(r"<[^>]+>", "", text)).replace("\u2019", "'").replace("\u00a0", " ")
    return [p for line in text.splitlines() if is_prose(p := re.sub(r"\s+", " ", line).strip())]


def _gather_botocore(corpus: Corpus, source: Source, root: Path, cap: int, texts: set[str], limit: int | None) -> None:
    services = sorted(p for p in (root / "data").iterdir() if p.is_dir() and not SERVICES_LEFT_OUT.match(p.name))
    share = cap // max(1, len(services[:limit])) * 4
    for service in services[:limit]:
        models = sorted(service.glob("*/service-2.json*"))
        if not models:
            continue
        raw = models[-1].read_bytes()
        model = json.loads(gzip.decompress(raw) if models[-1].suffix == ".gz" else raw)
        source.files += 1
        taken = 0
        for key, text in _walk_documentation(model):
            paragraphs = [p for p in strip_html(text) if not (p in texts or texts.add(p))]  # type: ignore[func-returns-value]
            if not paragraphs:
                continue
            if (summary := first_sentence(paragraphs[0])) and re.fullmatch(r"[a-z]+(_[a-z]+){1,5}", snake(key)):
                corpus.names.append((service.name, snake(key), summary))
            if source.characters < cap and taken < share:
                document = "\n".join(paragraphs)[:3000]
                corpus.documents.append(document)
                source.documents += 1
                source.characters += len(document)
                taken += len(document)


def _package_root(package: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def _topics() -> Iterable[str]:
    from pydoc_data.topics import topics

    return topics.values()


def gather(small: bool = False) -> Corpus:
    """Read every source. `small` reads a few files of a few sources (smoke tests)."""
    corpus, texts = Corpus(), set[str]()
    version = ".".join(map(str, sys.version_info[:3]))
    stdlib = Source("CPython standard library", version, "PSF-2.0")
    _gather_python(corpus, stdlib, Path(sysconfig.get_path("stdlib")), 4_000_000, texts, 40 if small else None)
    topics = Source("CPython pydoc topics", version, "PSF-2.0", files=1)
    for text in _topics():
        paragraphs = [p for p in prose(text) if not (p in texts or texts.add(p))]  # type: ignore[func-returns-value]
        for start in range(0, len(paragraphs), 8):
            document = "\n".join(paragraphs[start : start + 8])
            corpus.documents.append(document)
            topics.documents += 1
            topics.characters += len(document)
    corpus.sources += [stdlib, topics]
    selected = dict(list(PACKAGES.items())[:1]) if small else PACKAGES
    for name, (package, cap) in [*selected.items(), ("botocore", ("botocore", BOTOCORE_CAP))]:
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            corpus.left_out.append(f"{name}: not installed")
            continue
        licence, root = licence_of(distribution), _package_root(package)
        if licence is None or root is None:
            corpus.left_out.append(
                f"{name}: " + ("licence not plainly permissive" if licence is None else "no package folder")
            )
            continue
        source = Source(name, distribution.version, licence)
        read = _gather_botocore if name == "botocore" else _gather_python
        read(corpus, source, root, cap, texts, 6 if small else None)
        corpus.sources.append(source)
    return corpus
