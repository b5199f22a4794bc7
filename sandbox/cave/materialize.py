"""The materialization engine (5.26.4): versions, tables, views and queries."""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox.cave.auth import Gate
from sandbox.cave.faults import RateLimit
from sandbox.cave.http import Handler, constant, guarded, is_true, json_answer, query_answer
from sandbox.cave.query import join, query, sql_error
from sandbox.cave.relations import Relation, relation_of_table, relation_of_view, schema
from sandbox.cave.tables import (
    Datastack,
    MaterializedVersion,
    table_metadata,
    version_metadata,
    view_metadata,
)

_UNREADABLE = {
    "PRIVATE": "The table can only be read by its owner",
    "GROUP": "You cannot read this table because you do not share a common group with the creator of this table.",
}


class _NotFound(Exception):
    """What the real service raises as 404 and then sends as 500."""

    def __init__(self, what: str):
        super().__init__(f"404 Not Found: {what}")


class _Unauthorized(Exception):
    """What the real service raises as 401 and then sends as 500."""

    def __init__(self, why: str):
        super().__init__(f"401 Unauthorized: Unauthorized: {why}")


class Materialize:
    """Answers about the versions of one datastack.

    Parameters
    ----------
    datastack : Datastack
    gate : Gate
    row_cap : int
        No answer to a query has more rows.
    """

    def __init__(self, datastack: Datastack, gate: Gate, row_cap: int):
        self.rate_limit: RateLimit | None = None
        self.fast_rate_limit: RateLimit | None = None
        self._datastack = datastack
        self._gate = gate
        self._row_cap = row_cap
        self._tables: dict[tuple[int, str], Relation] = {}
        self._views: dict[tuple[int, str], Relation] = {}
        for version in datastack.versions:
            for name, table in version.tables.items():
                self._tables[version.number, name] = relation_of_table(name, table, version.is_merged)
            for name, view in version.views.items():
                self._views[version.number, name] = relation_of_view(name, view)

    def routes(self) -> list[Route]:
        """Return everything that is served. Views, and all tables at once, exist in API v3 only."""
        routes = [
            Route("/materialize/api/versions", constant([2, 3])),
            Route("/materialize/version", constant("5.26.4")),
        ]
        for api in (2, 3):
            datastack = f"/materialize/api/v{api}/datastack/{{datastack}}"
            version = f"{datastack}/version/{{version:int}}"
            table = f"{version}/table/{{table}}"
            routes += [
                self._get(f"{datastack}/versions", self._list_versions),
                self._get(f"{datastack}/metadata", self._describe_versions),
                self._get(version, self._describe_version),
                self._get(f"{version}/tables", self._list_tables),
                self._get(f"{table}/count", self._count_table),
                self._get(f"{table}/metadata", self._describe_table),
                self._post(f"{table}/query", self._query_table),
                self._post(f"{version}/query", self._query_join),
            ]
        version = "/materialize/api/v3/datastack/{datastack}/version/{version:int}"
        view = f"{version}/views/{{view}}"
        return [
            *routes,
            self._get(f"{version}/tables/metadata", self._describe_tables),
            self._get(f"{version}/views", self._list_views, is_query=True),
            self._get(f"{version}/views/schemas", self._list_view_schemas),
            self._get(f"{view}/metadata", self._describe_view, is_query=True),
            self._get(f"{view}/schema", self._view_schema),
            self._post(f"{view}/query", self._query_view),
        ]

    def _get(self, path: str, handler: Handler, is_query: bool = False) -> Route:
        # The real limit of queries counts the metadata of views too; those of tables are in the category fast_query.
        limit = (lambda: self.rate_limit) if is_query else (lambda: self.fast_rate_limit)
        return self._route("GET", path, handler, limit)

    def _post(self, path: str, handler: Handler) -> Route:
        return self._route("POST", path, handler, lambda: self.rate_limit)

    def _route(self, method: str, path: str, handler: Handler, limit: Callable[[], RateLimit | None]) -> Route:
        name = self._datastack.name
        endpoint = guarded(handler, self._gate, name, limit, named=("datastack", name))
        return Route(path, endpoint, methods=[method])

    def _list_versions(self, request: Request, _body: dict) -> Response:
        return json_answer([version.number for version in self._listed(request)])

    def _describe_versions(self, request: Request, _body: dict) -> Response:
        listed = self._listed(request)
        if not listed:
            return json_answer("No valid versions found", 404)
        return json_answer([version_metadata(self._datastack, version) for version in listed])

    def _describe_version(self, request: Request, _body: dict) -> Response:
        self._check_datastack(request)
        version = self._datastack.version(request.path_params["version"])
        if version is None:
            return json_answer("No version found", 404)
        return json_answer(version_metadata(self._datastack, version))

    def _list_tables(self, request: Request, _body: dict) -> Response:
        self._check_datastack(request)
        version = self._datastack.version(request.path_params["version"])
        if version is None or not version.tables:
            return json_answer(None, 404)
        return json_answer(list(version.tables))

    def _describe_tables(self, request: Request, _body: dict) -> Response:
        version = self._version(request)
        records = [table_metadata(self._datastack, version, name) for name in version.tables]
        return json_answer(records, 200 if records else 404)

    def _describe_table(self, request: Request, _body: dict) -> Response:
        version = self._version(request)
        name = request.path_params["table"]
        if name not in version.tables:
            where = f"for version '{version.number}' in datastack '{self._datastack.name}'"
            return json_answer(f"No table named '{name}' found {where}", 404)
        return json_answer(table_metadata(self._datastack, version, name))

    def _count_table(self, request: Request, _body: dict) -> Response:
        version = self._version(request)
        table = self._table(version, request.path_params["table"])
        self._check_database(version)
        return json_answer(len(table.frame))

    def _query_table(self, request: Request, body: dict) -> Response:
        version = self._version(request)
        table = self._readable_table(version, request.path_params["table"])
        self._check_database(version, table)
        return self._query_one(request, table, body, converts_resolution=_converts_resolution(request))

    def _query_view(self, request: Request, body: dict) -> Response:
        view = self._view(request)
        self._check_database(self._version(request), view)
        return self._query_one(request, view, body, converts_resolution=True)

    def _query_join(self, request: Request, body: dict) -> Response:
        version = self._version(request)
        relations = {name: self._readable_table(version, name) for name, _ in body["tables"]}
        self._check_database(version, *relations.values())
        answer = join(relations, body, self._row_cap, converts_resolution=_converts_resolution(request))
        return query_answer(answer, request)

    def _query_one(self, request: Request, relation: Relation, body: dict, *, converts_resolution: bool) -> Response:
        sample = request.query_params.get("random_sample")
        answer = query(
            relation,
            body,
            self._row_cap,
            count=is_true(request, "count"),
            random_sample=None if sample is None else int(sample),
            converts_resolution=converts_resolution,
        )
        return query_answer(answer, request)

    def _list_views(self, request: Request, _body: dict) -> Response:
        version = self._version(request)
        self._check_database(version)
        records = {name: view_metadata(self._datastack, version, name) for name in version.views}
        for record in records.values():
            del record["table_name"]
        return json_answer(records)

    def _describe_view(self, request: Request, _body: dict) -> Response:
        view = self._view(request)
        return json_answer(view_metadata(self._datastack, self._version(request), view.name))

    def _view_schema(self, request: Request, _body: dict) -> Response:
        self._check_database(self._version(request))
        return json_answer(schema(self._view(request)))

    def _list_view_schemas(self, request: Request, _body: dict) -> Response:
        version = self._version(request)
        self._check_database(version)
        return json_answer({name: schema(self._views[version.number, name]) for name in version.views})

    def _check_datastack(self, request: Request) -> None:
        name = request.path_params["datastack"]
        if name != self._datastack.name:
            where = f"{request.base_url}info/api/v2/datastack/full/{name}"
            raise LookupError(f"404 Client Error: NOT FOUND for url: {where}")

    def _listed(self, request: Request) -> list[MaterializedVersion]:
        self._check_datastack(request)
        expired_too = is_true(request, "expired")
        return [version for version in self._datastack.versions if version.is_valid or expired_too]

    def _version(self, request: Request) -> MaterializedVersion:
        """Return a version that there is or was; where it is a parent's, that must not be gone."""
        self._check_datastack(request)
        number = request.path_params["version"]
        version = self._datastack.version(number)
        what = f"version {number} not found in {self._datastack.name}"
        if version is None:
            raise _NotFound(what)
        if not version.is_valid and self._datastack.parent is not None:
            raise _NotFound(f"{what} because there is no valid parent")
        return version

    def _check_database(self, version: MaterializedVersion, *queried: Relation) -> None:
        """Fail as the real service does where the database of a version is gone or not there yet."""
        if version.is_valid:
            return
        database = f"{self._datastack.name}__mat{version.number}"
        reason = f'connection to server at "10.1.2.3", port 5432 failed: FATAL:  database "{database}" does not exist\n'
        if not queried:
            raise RuntimeError(f"(psycopg2.OperationalError) {reason}")
        raise sql_error({table.name: list(table.columns) for table in queried}, reason)

    def _table(self, version: MaterializedVersion, name: str) -> Relation:
        relation = self._tables.get((version.number, name))
        if relation is None:
            where = f"version {version.number} in datastack {self._datastack.name}"
            raise _NotFound(f"Analysis table '{name}' not found for {where}")
        return relation

    def _readable_table(self, version: MaterializedVersion, name: str) -> Relation:
        relation = self._table(version, name)
        permission = version.tables[name].read_permission
        if permission in _UNREADABLE:
            raise _Unauthorized(_UNREADABLE[permission])
        return relation

    def _view(self, request: Request) -> Relation:
        relation = self._views.get((self._version(request).number, request.path_params["view"]))
        if relation is None:
            raise LookupError("No row was found for one()")
        return relation


def _converts_resolution(request: Request) -> bool:
    return "/api/v2/" not in request.url.path
