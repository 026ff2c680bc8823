"""The tables of the run store. `migrations.py` makes them; a test holds the two together."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    bindparam,
    select,
)

metadata = MetaData()

#: One row: the version of these tables.
version = Table("llmtune_schema", metadata, Column("version", Integer, nullable=False))

runs = Table(
    "runs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("run_key", Text, nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("created", Float, nullable=False),
    Column("updated", Float, nullable=False),
    # What is never searched by, as JSON: what was planned, and what changes with every poll.
    Column("document", Text, nullable=False),
    Column("live", Text, nullable=False),
    Index("runs_by_fingerprint", "fingerprint"),
    Index("runs_by_state", "state"),
)

transitions = Table(
    "transitions",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("run_id", Text, ForeignKey("runs.id"), nullable=False),
    Column("time", Float, nullable=False),
    Column("state", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Index("transitions_by_run", "run_id", "seq"),
)

# What a provider returned and must be given back: "job", "model", "upload:train", "deployment", "checkpoint:...".
references = Table(
    "run_references",
    metadata,
    Column("run_id", Text, ForeignKey("runs.id"), primary_key=True),
    Column("name", Text, primary_key=True),
    Column("ref", Text, nullable=False),
    Column("time", Float, nullable=False),
)

metrics = Table(
    "metrics",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("run_id", Text, ForeignKey("runs.id"), nullable=False),
    # The same point reported twice is one point: series, step and epoch say which.
    Column("identity", Text, nullable=False),
    Column("point", Text, nullable=False),
    UniqueConstraint("run_id", "identity", name="metrics_once"),
)

events = Table(
    "events",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("run_id", Text, ForeignKey("runs.id"), nullable=False),
    Column("event_id", Text, nullable=False),
    Column("time", Float, nullable=False),
    Column("level", Text, nullable=False),
    Column("message", Text, nullable=False),
    UniqueConstraint("run_id", "event_id", name="events_once"),
)

# By content. Without a reference: an upload was begun, and may or may not have arrived.
uploads = Table(
    "uploads",
    metadata,
    Column("provider", Text, primary_key=True),
    Column("digest", Text, primary_key=True),
    Column("ref", Text),
    Column("time", Float, nullable=False),
)

# Everything made at a vendor, so that cleanup touches nothing else.
resources = Table(
    "resources",
    metadata,
    Column("provider", Text, primary_key=True),
    Column("type", Text, primary_key=True),
    Column("ref_id", Text, primary_key=True),
    Column("ref", Text, nullable=False),
    Column("run_id", Text, ForeignKey("runs.id"), nullable=False),
    Column("created", Float, nullable=False),
    Column("removed", Float),
    Index("resources_by_run", "run_id"),
)

leases = Table(
    "leases",
    metadata,
    Column("name", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("beat", BigInteger, nullable=False),
    Column("time", Float, nullable=False),
)

reports = Table(
    "reports",
    metadata,
    Column("run_id", Text, ForeignKey("runs.id"), primary_key=True),
    Column("report", Text, nullable=False),
    Column("time", Float, nullable=False),
)

# Statements that every poll runs, put together once: that costs more than running them.
run_by_id = runs.select().where(runs.c.id == bindparam("wanted"))
reference_by_name = references.select().where(
    references.c.run_id == bindparam("wanted_run"), references.c.name == bindparam("wanted_name")
)
delete_reference = references.delete().where(
    references.c.run_id == bindparam("old_run"), references.c.name == bindparam("old_name")
)
add_reference = references.insert()
add_transition = transitions.insert()
known_points = select(metrics.c.identity).where(
    metrics.c.run_id == bindparam("owner"), metrics.c.identity.in_(bindparam("names", expanding=True))
)
known_events = select(events.c.event_id).where(
    events.c.run_id == bindparam("owner"), events.c.event_id.in_(bindparam("names", expanding=True))
)
add_points = metrics.insert()
add_events = events.insert()
lease_by_name = leases.select().where(leases.c.name == bindparam("wanted"))
