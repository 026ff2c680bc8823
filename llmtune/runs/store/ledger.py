"""The ledger of what llmtune made at vendors: references, uploads by content, resources; and leases, and reports."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import orjson
from pydantic_core import from_json

from llmtune.errors import StoreError
from llmtune.provider.types import AnyRef, DeploymentRef, JobRef, ModelRef, Ref, UploadRef
from llmtune.redaction.secrets import scrub_leaves
from llmtune.runs.store.database import Database
from llmtune.runs.store.serialization import dump, read_rows

if TYPE_CHECKING:
    from sqlalchemy import Connection, Row

    from llmtune.runs.store.records import RunRecord

R = TypeVar("R", bound=Ref)
ResourceType = Literal["upload", "job", "model", "deployment"]
_REF_TYPES: dict[str, type[Ref]] = {
    "upload": UploadRef,
    "job": JobRef,
    "model": ModelRef,
    "deployment": DeploymentRef,
}


@dataclass(frozen=True)
class Resource:
    """Something that llmtune made at a vendor. `removed` is when llmtune removed it, in Unix seconds."""

    provider: str
    type: ResourceType
    ref: AnyRef
    run_id: str
    created: float
    removed: float | None


class Ledger(Database):
    """The part of the store that lists what exists at vendors. `Store` adds the runs."""

    # --- references ------------------------------------------------------------------------------------------------
    def set_ref(self, run_id: str, name: str, ref: Ref) -> None:
        """Keep a reference of a run, under a name such as "model"."""
        with self.write() as connection:
            self._set_ref(connection, run_id, name, ref)

    def drop_ref(self, run_id: str, name: str) -> None:
        """Forget a reference of a run."""
        from llmtune.runs.store import schema

        table = schema.references
        with self.write() as connection:
            connection.execute(table.delete().where(table.c.run_id == run_id, table.c.name == name))

    def ref(self, run_id: str, name: str, kind: type[R]) -> R | None:
        """Return a reference of a run, None when there is none."""
        from llmtune.runs.store import schema

        with self.read() as connection:
            row = connection.execute(schema.reference_by_name, {"wanted_run": run_id, "wanted_name": name}).first()
        try:
            return None if row is None else kind.model_validate_json(row.ref)
        except ValueError:
            raise StoreError(f"the reference {name!r} of run {run_id} is damaged and cannot be read") from None

    def refs(self, run_id: str) -> dict[str, dict[str, Any]]:
        """Return every reference of a run by name, as JSON data."""
        from llmtune.runs.store import schema

        table = schema.references
        with self.read() as connection:
            rows = connection.execute(table.select().where(table.c.run_id == run_id).order_by(table.c.time)).all()
        return dict(
            read_rows(rows, lambda row: (row.name, orjson.loads(row.ref)), "reference {0.name} of run {0.run_id}")
        )

    # --- uploads ---------------------------------------------------------------------------------------------------
    def begin_upload(self, provider: str, digest: str) -> bool:
        """Record that an upload of this content begins. Returns True when one had begun before."""
        from llmtune.runs.store import schema

        table = schema.uploads
        with self.write() as connection:
            row = connection.execute(table.select().where(table.c.provider == provider, table.c.digest == digest))
            if row.first() is not None:
                return True
            connection.execute(table.insert().values(provider=provider, digest=digest, ref=None, time=time.time()))
            return False

    def find_upload(self, provider: str, digest: str) -> UploadRef | None:
        """Return the upload of this content at a provider, as far as the store knows."""
        from llmtune.runs.store import schema

        table = schema.uploads
        with self.read() as connection:
            row = connection.execute(
                table.select().where(table.c.provider == provider, table.c.digest == digest)
            ).first()
        try:
            return None if row is None or row.ref is None else UploadRef.model_validate_json(row.ref)
        except ValueError:  # damaged; the provider is asked for the content before it is sent again
            return None

    def keep_upload(self, record: RunRecord, name: str, ref: UploadRef, *, created: bool) -> None:
        """Record an upload: as the run's reference, by its content, and, with `created`, as a resource we made."""
        from llmtune.runs.store import schema

        table = schema.uploads
        with self.write() as connection:
            self._set_ref(connection, record.id, name, ref)
            connection.execute(table.delete().where(table.c.provider == record.provider, table.c.digest == ref.digest))
            connection.execute(
                table.insert().values(
                    provider=record.provider, digest=ref.digest, ref=ref.model_dump_json(), time=time.time()
                )
            )
            if created:
                self._record_resource(connection, record, "upload", ref)

    def forget_upload(self, provider: str, digest: str) -> None:
        """Forget the upload of this content."""
        from llmtune.runs.store import schema

        table = schema.uploads
        with self.write() as connection:
            connection.execute(table.delete().where(table.c.provider == provider, table.c.digest == digest))

    # --- resources -------------------------------------------------------------------------------------------------
    def keep_ref(self, record: RunRecord, name: str, type: ResourceType, ref: Ref) -> None:
        """Record a reference of a run, and its resource as made by llmtune, in one transaction."""
        with self.write() as connection:
            self._set_ref(connection, record.id, name, ref)
            self._record_resource(connection, record, type, ref)

    def resources(self, run_id: str | None = None, *, standing: bool = True) -> list[Resource]:
        """Return what llmtune made at vendors, oldest first; with `standing`, only what it has not removed."""
        from llmtune.runs.store import schema

        table = schema.resources
        query = table.select().order_by(table.c.created)
        if run_id is not None:
            query = query.where(table.c.run_id == run_id)
        if standing:
            query = query.where(table.c.removed.is_(None))
        with self.read() as connection:
            rows = connection.execute(query).all()
        return read_rows(rows, _read_resource, "{0.type} {0.ref_id} at {0.provider}, made by run {0.run_id}")

    def mark_removed(self, resource: Resource) -> None:
        """Record that a resource was removed at the vendor."""
        from llmtune.runs.store import schema

        table = schema.resources
        with self.write() as connection:
            connection.execute(
                table.update()
                .where(
                    table.c.provider == resource.provider,
                    table.c.type == resource.type,
                    table.c.ref_id == resource.ref.id,
                )
                .values(removed=time.time())
            )
            if isinstance(resource.ref, UploadRef):
                uploads = schema.uploads
                connection.execute(
                    uploads.delete().where(
                        uploads.c.provider == resource.provider, uploads.c.digest == resource.ref.digest
                    )
                )

    # --- reports ---------------------------------------------------------------------------------------------------
    def keep_report(self, run_id: str, report: str) -> None:
        """Keep a run's report (JSON), in place of an earlier one."""
        from llmtune.runs.store import schema

        table = schema.reports
        with self.write() as connection:
            connection.execute(table.delete().where(table.c.run_id == run_id))
            connection.execute(
                table.insert().values(run_id=run_id, report=dump(scrub_leaves(from_json(report))), time=time.time())
            )

    def report(self, run_id: str) -> str | None:
        """Return a run's report (JSON), None when there is none."""
        from llmtune.runs.store import schema

        table = schema.reports
        with self.read() as connection:
            row = connection.execute(table.select().where(table.c.run_id == run_id)).first()
        return None if row is None else str(row.report)

    # --- leases (llmtune.runs.store.leases holds them) ---------------------------------------------------------------
    def take_lease(self, name: str, owner: str, *, over: tuple[str, int] | None = None) -> tuple[str, int]:
        """Take a lease that is free, or whose owner and beat are still `over`. Returns its owner and beat."""
        from llmtune.runs.store import schema

        table = schema.leases
        with self.write() as connection:
            row = connection.execute(schema.lease_by_name, {"wanted": name}).first()
            if row is not None and (row.owner, row.beat) != over:
                return str(row.owner), int(row.beat)
            beat = 0 if row is None else int(row.beat) + 1
            connection.execute(table.delete().where(table.c.name == name))
            connection.execute(table.insert().values(name=name, owner=owner, beat=beat, time=time.time()))
        return owner, beat

    def beat_leases(self, owner: str, names: Sequence[str]) -> list[str]:
        """Keep leases alive; returns those that are still ours."""
        from llmtune.runs.store import schema

        table = schema.leases
        own_leases = table.c.name.in_(list(names)), table.c.owner == owner
        with self.write(durable=False) as connection:
            connection.execute(table.update().where(*own_leases).values(beat=table.c.beat + 1, time=time.time()))
            return [str(row.name) for row in connection.execute(table.select().where(*own_leases))]

    def drop_lease(self, name: str, owner: str) -> None:
        """Give a lease back, if it is still ours."""
        from llmtune.runs.store import schema

        table = schema.leases
        with self.write(durable=False) as connection:
            connection.execute(table.delete().where(table.c.name == name, table.c.owner == owner))

    # --- inside a transaction --------------------------------------------------------------------------------------
    def _set_ref(self, connection: Connection, run_id: str, name: str, ref: Ref) -> None:
        from llmtune.runs.store import schema

        connection.execute(schema.delete_reference, {"old_run": run_id, "old_name": name})
        row = {"run_id": run_id, "name": name, "ref": ref.model_dump_json(), "time": time.time()}
        connection.execute(schema.add_reference, row)

    def _record_resource(self, connection: Connection, record: RunRecord, type: ResourceType, ref: Ref) -> None:
        from llmtune.runs.store import schema

        table = schema.resources
        same = table.c.provider == record.provider, table.c.type == type, table.c.ref_id == ref.id
        row = connection.execute(table.select().where(*same)).first()
        if row is not None and row.removed is None:
            return
        connection.execute(table.delete().where(*same))
        connection.execute(
            table.insert().values(
                provider=record.provider,
                type=type,
                ref_id=ref.id,
                ref=ref.model_dump_json(),
                run_id=record.id,
                created=time.time(),
            )
        )


def _read_resource(row: Row[Any]) -> Resource:
    return Resource(
        provider=row.provider,
        type=row.type,
        ref=_REF_TYPES[row.type].model_validate_json(row.ref),  # type: ignore[arg-type]
        run_id=row.run_id,
        created=row.created,
        removed=row.removed,
    )
