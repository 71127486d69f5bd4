"""The table of the API: every operation that there is, and who may call it."""

from __future__ import annotations

from typing import Final

from durable.web import actions, entry, feature_operations, instances, live, overview
from durable.web.calls import Fields, Handler, Operation
from durable.web.roles import Role

ACCEPTED: Final = {202: "durable; Location says where to ask about it, Retry-After when"}
SENT: Final = {202: "durable; applies at the next turn"}


def _reads(path: str, handler: Handler, query: type[Fields] = Fields, **more: object) -> Operation:
    return Operation("GET", path, Role.VIEWER, handler, _summary(handler), query=query, **more)  # type: ignore[arg-type]


def _acts(
    path: str,
    handler: Handler,
    body: type[Fields],
    *,
    role: Role = Role.OPERATOR,
    answers: dict[int, str] | None = None,
) -> Operation:
    told = answers or {200: "done"}
    return Operation("POST", path, role, handler, _summary(handler), body=body, answers=told, changes=True)


def _summary(handler: Handler) -> str:
    return (handler.__doc__ or "").strip()


STREAM: Final = "text/event-stream"

OPERATIONS: Final[tuple[Operation, ...]] = (
    Operation("GET", "/api/health", None, entry.health, _summary(entry.health)),
    Operation("POST", "/api/login", None, entry.login, _summary(entry.login), body=entry.Login),
    Operation("POST", "/api/logout", Role.VIEWER, entry.logout, _summary(entry.logout)),
    _reads("/api/session", entry.session),
    _reads("/api/overview", overview.get_overview),
    _reads("/api/workers", overview.list_workers),
    _reads("/api/live", live.live_overview, media=STREAM),
    Operation("GET", "/api/audit", Role.ADMIN, overview.list_audit, _summary(overview.list_audit), overview.AuditPage),
    # Instances
    _reads("/api/instances", instances.list_instances, instances.Listing),
    _reads("/api/count", instances.count_instances, instances.Filters),
    _reads("/api/instances/{id}", instances.get_instance, instances.OfKind),
    _reads(
        "/api/instances/{id}/status",
        instances.get_status,
        instances.Waiting,
        answers={200: "it has ended", 202: "it goes on: ask again at Location after Retry-After seconds"},
    ),
    _reads("/api/instances/{id}/history", instances.get_history, instances.Events),
    _reads(
        "/api/instances/{id}/export", instances.export_history, instances.Generation, media="application/octet-stream"
    ),
    _reads("/api/instances/{id}/timeline", instances.get_timeline, instances.Generation),
    _reads("/api/instances/{id}/tree", instances.get_tree, instances.OfKind),
    _reads("/api/instances/{id}/dropped", instances.get_dropped, instances.OfKind),
    _reads("/api/instances/{id}/live", live.live_instance, instances.OfKind, media=STREAM),
    # Steering
    _acts("/api/orchestrators/{name}", actions.start, actions.Start, answers=ACCEPTED),
    _acts("/api/orchestrators/{name}/{id}", actions.start, actions.Start, answers=ACCEPTED),
    _acts("/api/instances/{id}/raise", actions.raise_event, actions.NamedEvent, answers=SENT),
    _acts("/api/instances/{id}/update", actions.update, actions.Updated, answers={200: "carried out"}),
    Operation(
        "POST", "/api/instances/{id}/query", Role.VIEWER, actions.query, _summary(actions.query), body=actions.Asked
    ),
    _acts("/api/instances/{id}/terminate", actions.terminate, actions.Terminate, answers=SENT),
    *(
        _acts(f"/api/instances/{{id}}/{action}", actions.steering(action, what), actions.Reason, answers=SENT)
        for action, what in actions.STEERING.items()
    ),
    _acts("/api/instances/{id}/restart", actions.restart, actions.Restart, answers=ACCEPTED),
    _acts("/api/instances/{id}/fork", actions.fork, actions.Fork, answers=ACCEPTED),
    Operation(
        "DELETE",
        "/api/instances/{id}",
        Role.ADMIN,
        actions.purge,
        _summary(actions.purge),
        query=actions.Purge,
        changes=True,
    ),
    *(
        _acts(f"/api/bulk/{action}", actions.bulk(action, what), actions.Bulk, role=Role.ADMIN)
        for action, what in actions.IN_BULK.items()
    ),
    # Features
    _reads("/api/jobs/{id}", feature_operations.get_job_tree),
    _acts("/api/jobs/{id}/cancel", feature_operations.cancel_job_tree, actions.Reason, answers=SENT),
    _acts("/api/jobs/{id}/jobs/{job}/cancel", feature_operations.cancel_job, actions.Reason),
    _reads("/api/schedules", feature_operations.list_schedules),
    _reads("/api/schedules/{id}", feature_operations.get_schedule, feature_operations.Times),
    _acts("/api/schedules/{id}/pause", feature_operations.pause_schedule, feature_operations.Note, answers=SENT),
    _acts("/api/schedules/{id}/resume", feature_operations.resume_schedule, feature_operations.Note, answers=SENT),
    _acts("/api/schedules/{id}/trigger", feature_operations.trigger_schedule, Fields, answers=ACCEPTED),
    _acts(
        "/api/schedules/{id}/backfill", feature_operations.backfill_schedule, feature_operations.Period, answers=SENT
    ),
    Operation(
        "DELETE",
        "/api/schedules/{id}",
        Role.ADMIN,
        feature_operations.delete_schedule,
        _summary(feature_operations.delete_schedule),
        changes=True,
    ),
    _reads("/api/entities", feature_operations.list_entities, feature_operations.Entities),
    _reads("/api/entities/{name}/{key}", feature_operations.get_entity),
    _acts(
        "/api/entities/{name}/{key}/signal", feature_operations.signal_entity, feature_operations.Signal, answers=SENT
    ),
)
