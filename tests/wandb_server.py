"""A stand-in for W&B's server on loopback, for the real client. It keeps what arrives, and can be told to fail.

What it proves: that what we send is complete and well formed. Not how W&B's own server treats it.
"""

from __future__ import annotations

import base64
import itertools
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

KEY = "0" * 40


@dataclass
class Artifact:
    """What arrived of an artifact."""

    name: str
    type: str
    metadata: dict[str, Any]
    files: dict[str, bytes] = field(default_factory=dict)
    committed: bool = False

    @property
    def manifest(self) -> dict[str, Any]:
        return json.loads(self.files["wandb_manifest.json"])["contents"]


@dataclass
class Run:
    """What arrived of a run."""

    entity: str
    project: str
    fields: dict[str, Any] = field(default_factory=dict)  # of UpsertBucket: displayName, groupName, jobType, tags, ..
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, dict[int, str]] = field(default_factory=dict)  # file -> line number -> line
    files: dict[str, bytes] = field(default_factory=dict)
    alerts: list[dict[str, Any]] = field(default_factory=list)
    artifacts: list[Artifact] = field(default_factory=list)
    preempting: bool = False
    state: str = ""  # where it does not follow from the exit code
    exit_code: int | None = None

    @property
    def history(self) -> list[dict[str, Any]]:
        return [json.loads(line) for _, line in sorted(self.lines.get("wandb-history.jsonl", {}).items())]

    def values(self) -> dict[str, Any]:
        """The config without W&B's own."""
        return {key: item["value"] for key, item in self.config.items() if key != "_wandb"}


@dataclass
class Sweep:
    """A grid that agents share out."""

    config: dict[str, Any]
    cells: list[dict[str, Any]]
    started: dict[str, dict[str, Any]] = field(default_factory=dict)  # run id -> its cell
    stop: set[str] = field(default_factory=set)  # run ids that the agent is told to stop
    requeued: list[str] = field(default_factory=list)  # run ids that were preempted


class Server:
    """`fault`: empty, or how each request is answered: `hang`, `drop`, `null`, or an HTTP status such as `500`."""

    def __init__(self) -> None:
        self.fault = ""
        self.runs: dict[str, Run] = {}
        self.artifacts: dict[str, Artifact] = {}  # by id
        self.sweeps: dict[str, Sweep] = {}
        self.views: dict[str, dict[str, Any]] = {}  # workspaces and reports, by id
        self.projects: set[str] = set()
        self.unknown: list[str] = []
        self.requests = self.pages = self.histories = 0
        self.lock = threading.Lock()
        self.released = threading.Event()
        outer = self

        class Handler(_Handler):
            server_of_runs = outer

        class Http(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256  # a client uploads many small files at once

            def handle_error(self, *_: object) -> None: ...  # a client that is gone

        self._http = Http(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.released.set()
        self._http.shutdown()
        self._http.server_close()


@contextmanager
def serving() -> Iterator[Server]:
    server = Server()
    try:
        yield server
    finally:
        server.close()


class _Handler(BaseHTTPRequestHandler):
    server_of_runs: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def do_POST(self) -> None:
        body = self._body()
        if self._fails():
            return
        if self.path == "/graphql":
            self._graphql(json.loads(body))
        elif found := re.fullmatch(r"/files/([^/]+)/([^/]+)/([^/]+)/file_stream", self.path):
            self._file_stream(found.group(3), json.loads(body))
        else:
            self._answer(200, {})  # the client's own telemetry

    def do_PUT(self) -> None:
        body = self._body()
        if self._fails():
            return
        owner, _, name = self.path.removeprefix("/storage/").partition("/")
        found = self.server_of_runs.artifacts.get(owner) or self.server_of_runs.runs[owner]
        found.files[name] = body
        self._answer(200, {})

    def do_GET(self) -> None:
        if self._fails():
            return
        owner, _, name = self.path.removeprefix("/storage/").partition("/")
        run = self.server_of_runs.runs.get(owner)
        if run and name in run.files:
            self._send(200, "application/octet-stream", run.files[name])
        else:
            self._answer(404, {})

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _fails(self) -> bool:
        server = self.server_of_runs
        with server.lock:
            server.requests += 1
        if not (fault := server.fault):
            return False
        if fault == "hang":
            server.released.wait()
        if fault in ("hang", "drop"):
            self.close_connection = True
            self.connection.close()
        elif fault == "null":
            self._answer(200, {"data": None})
        else:
            self._answer(int(fault), {"errors": [{"message": "a planted fault"}]})
        return True

    def _answer(self, code: int, content: dict[str, Any]) -> None:
        self._send(code, "application/json", json.dumps(content).encode())

    def _send(self, code: int, kind: str, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _graphql(self, request: dict[str, Any]) -> None:
        found = re.search(r"(?:query|mutation)\s+(\w+)", request["query"])
        name = found.group(1) if found else request["query"][:50]
        operation = getattr(self, f"_{name}", None)
        if operation is None:
            self.server_of_runs.unknown.append(name)
            self._answer(400, {"errors": [{"message": f"unknown operation {name}"}]})
            return
        try:
            with self.server_of_runs.lock:
                variables = request.get("variables") or {}
                data = operation(variables.get("input", variables))
        except Exception as error:
            self.server_of_runs.unknown.append(f"{name}: {error!r}")
            self._answer(400, {"errors": [{"message": f"{name}: {error!r}"}]})
            return
        self._answer(200, {"data": data})

    # --- operations, by W&B's names ---

    def _Viewer(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"viewer": {"id": "u", "entity": "tester", "username": "tester", "flags": "{}", "teams": {"edges": []}}}

    def _GetDefaultEntity(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"viewer": {"id": "u", "entity": "tester"}}

    def _Runs(self, given: dict[str, Any]) -> dict[str, Any]:
        filters = json.loads(given.get("filters") or "{}")
        names = [
            name for name, run in self.server_of_runs.runs.items()
            if (run.entity, run.project) == (given["entity"], given["project"]) and _matches(run, filters)
        ]  # fmt: skip
        start, size = int(given.get("cursor") or 0), given["perPage"]
        page = names[start : start + size]
        self.server_of_runs.pages += 1
        edges = [{"node": self._node(name), "cursor": str(start + i + 1)} for i, name in enumerate(page)]
        more = {"endCursor": str(start + len(page)), "hasNextPage": start + size < len(names)}
        runs = {"edges": edges, "pageInfo": more}
        return {"project": {"internalId": "p", "runCount": len(names), "readOnly": False, "runs": runs}}

    def _node(self, name: str) -> dict[str, Any]:
        run = self.server_of_runs.runs[name]
        state = {None: "running", 0: "finished"}.get(run.exit_code, "failed")
        return {
            "id": _id(name), "projectId": "1", "name": name, "displayName": run.fields.get("displayName") or name,
            "tags": run.fields.get("tags") or [], "sweepName": run.fields.get("sweep"), "state": run.state or state,
            "config": json.dumps(run.config), "group": run.fields.get("groupName"),
            "jobType": run.fields.get("jobType"), "commit": run.fields.get("commit"), "readOnly": False,
            "createdAt": f"2026-01-01T00:00:{list(self.server_of_runs.runs).index(name):02d}Z",
            "heartbeatAt": "2026-01-01T01:00:00Z", "description": "", "notes": "", "systemMetrics": "{}",
            "summaryMetrics": json.dumps(run.summary), "historyLineCount": len(run.history),
            "user": {"name": "tester", "username": "tester"},
            "historyKeys": {"lastStep": max((row.get("_step", 0) for row in run.history), default=-1), "keys": {}},
        }  # fmt: skip

    def _RunHistoryKeys(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"run": {"historyKeys": self._node(given["name"])["historyKeys"]}}}

    def _RunParquetHistory(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"run": {"parquetHistory": {"parquetUrls": [], "liveData": []}}}}

    def _HistoryPage(self, given: dict[str, Any]) -> dict[str, Any]:
        run = self.server_of_runs.runs[given["run"]]
        self.server_of_runs.histories += 1
        rows = [row for row in run.history if given["minStep"] <= row["_step"] < given["maxStep"]]
        return {"project": {"run": {"history": [json.dumps(row) for row in rows[: given["pageSize"]]]}}}

    def _OrganizationCoreWeaveOrganizationID(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"entity": {"organization": {"coreWeaveOrganizationId": None}}}

    def _RunResumeStatus(self, given: dict[str, Any]) -> dict[str, Any]:
        run = self.server_of_runs.runs.get(given["name"])
        entity = {"id": "e", "name": "tester"}
        model = {"id": "p", "name": given["project"], "entity": entity, "bucket": None}
        if run:
            counts = {file: len(lines) for file, lines in run.lines.items()}
            tail = [json.dumps(row) for row in run.history[-1:]]
            model["bucket"] = {
                "id": _id(given["name"]),
                "name": given["name"],
                "summaryMetrics": json.dumps(run.summary),
                "displayName": run.fields.get("displayName"),
                "logLineCount": 0,
                "historyLineCount": counts.get("wandb-history.jsonl", 0),
                "eventsLineCount": counts.get("wandb-events.jsonl", 0),
                "historyTail": json.dumps(tail),
                "eventsTail": "[]",
                "config": json.dumps(run.config),
                "tags": run.fields.get("tags") or [],
                "notes": None,
                "wandbConfig": json.dumps({"t": 1}),
            }
        return {"model": model}

    def _UpsertBucket(self, given: dict[str, Any]) -> dict[str, Any]:
        runs, name = self.server_of_runs.runs, given["name"]
        inserted = name not in runs
        self.server_of_runs.projects.add(given.get("project") or "uncategorized")
        run = runs.setdefault(name, Run(given.get("entity") or "tester", given.get("project") or "uncategorized"))
        run.fields |= {key: value for key, value in given.items() if value is not None}
        if given.get("config"):
            run.config |= json.loads(given["config"])
        if given.get("summaryMetrics"):
            run.summary |= json.loads(given["summaryMetrics"])
        bucket = {
            "id": _id(name),
            "name": name,
            "displayName": run.fields.get("displayName") or name,
            "description": None,
            "config": json.dumps(run.config),
            "sweepName": given.get("sweep"),
            "project": {"id": "p", "name": run.project, "entity": {"id": "e", "name": run.entity}},
            "historyLineCount": len(run.lines.get("wandb-history.jsonl", {})),
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def _NotifyScriptableRunAlert(self, given: dict[str, Any]) -> dict[str, Any]:
        self.server_of_runs.runs[given["runName"]].alerts.append(given)
        return {"notifyScriptableRunAlert": {"success": True}}

    def _ServerFeaturesQuery(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def _ArtifactType(self, given: dict[str, Any]) -> dict[str, Any]:
        name = given["name"].partition(":")[0]
        found = [artifact for artifact in self.server_of_runs.artifacts.values() if artifact.name == name]
        return {"project": {"artifact": {"artifactType": {"name": found[0].type}} if found else None}}

    def _CreateArtifact(self, given: dict[str, Any]) -> dict[str, Any]:
        artifacts = self.server_of_runs.artifacts
        artifact = Artifact(
            given["artifactCollectionName"], given["artifactTypeName"], json.loads(given["metadata"] or "{}")
        )
        identity = f"artifact-{len(artifacts)}"
        artifacts[identity] = artifact
        self.server_of_runs.runs[given["runName"]].artifacts.append(artifact)
        created = {"id": identity, "state": "PENDING", "artifactSequence": {"latestArtifact": None}}
        return {"createArtifact": {"artifact": created}}

    def _CreateArtifactManifest(self, given: dict[str, Any]) -> dict[str, Any]:
        file = self._upload(given["artifactID"], given["name"])
        manifest = {"id": f"manifest-of-{given['artifactID']}", "file": file}
        return {"createArtifactManifest": {"artifactManifest": manifest}}

    def _UpdateArtifactManifest(self, given: dict[str, Any]) -> dict[str, Any]:
        identity = given["artifactManifestID"].removeprefix("manifest-of-")
        file = self._upload(identity, "wandb_manifest.json")
        manifest = {"id": given["artifactManifestID"], "file": file}
        return {"updateArtifactManifest": {"artifactManifest": manifest}}

    def _CreateArtifactFiles(self, given: dict[str, Any]) -> dict[str, Any]:
        edges = []
        for spec in given["artifactFiles"]:
            file = self._upload(spec["artifactID"], spec["name"])
            edges.append({"node": file | {"storagePath": f"{spec['artifactID']}/{spec['name']}"}})
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _CommitArtifact(self, given: dict[str, Any]) -> dict[str, Any]:
        self.server_of_runs.artifacts[given["artifactID"]].committed = True
        return {"commitArtifact": {"artifact": {"id": given["artifactID"], "digest": "d"}}}

    def _upload(self, owner: str, name: str) -> dict[str, Any]:
        url = f"{self.server_of_runs.url}/storage/{owner}/{name}"
        return {"id": f"file-{name}", "name": name, "displayName": name, "uploadUrl": url, "uploadHeaders": [],
                "uploadMultipartUrls": None, "artifact": {"id": owner}}  # fmt: skip

    def _View(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"project": self._views(given["entityName"], given["projectName"], given["viewType"], given["viewName"])}

    def _ProjectViews(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"project": self._views(given["entity"], given["project"], given.get("viewType") or "runs", None)}

    def _views(self, entity: str, project: str, kind: str, name: str | None) -> dict[str, Any] | None:
        if project not in self.server_of_runs.projects:
            return None
        nodes = [
            {"user": {"username": "tester", "photoUrl": None, "email": ""}, **view}
            for view in self.server_of_runs.views.values()
            if (view["entityName"], view["projectName"], view["type"]) == (entity, project, kind)
            and name in (None, view["name"])
        ]
        edges = [{"node": node, "cursor": str(i)} for i, node in enumerate(nodes)]
        return {"allViews": {"edges": edges, "pageInfo": {"endCursor": "", "hasNextPage": False}}}

    def _UpsertView2(self, given: dict[str, Any]) -> dict[str, Any]:
        views = self.server_of_runs.views
        identity = given.get("id") or base64.b64encode(f"View:{len(views):04}".encode()).decode()
        times = {"createdAt": "2026-01-01T00:00:00", "updatedAt": "2026-01-01T00:00:00"}
        inserted = identity not in views
        view = views.setdefault(identity, times)
        view |= given | {"id": identity}
        view["project"] = {"id": "p", "name": given["projectName"], "entityName": given["entityName"]}
        return {"upsertView": {"view": view, "inserted": inserted}}

    _upsertView = _UpsertView2

    def _SpecificReport(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"view": self.server_of_runs.views[given["reportId"]]}

    def _CreateProject(self, given: dict[str, Any]) -> dict[str, Any]:
        self.server_of_runs.projects.add(given["name"])
        project = {"__typename": "Project", "id": "p", "name": given["name"], "entityName": given["entityName"],
                   "description": "", "access": "PRIVATE", "views": "{}"}  # fmt: skip
        return {"result": {"model": project, "project": project, "inserted": True}}

    def _GetProjects(self, given: dict[str, Any]) -> dict[str, Any]:
        nodes = [
            {"__typename": "Project", "id": name, "name": name, "entityName": given["entity"],
             "createdAt": "2026-01-01T00:00:00Z", "isBenchmark": False, "user": None}
            for name in sorted(self.server_of_runs.projects)
        ]  # fmt: skip
        edges = [{"node": node} for node in nodes]
        page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
        return {"models": {"pageInfo": page, "edges": edges}}

    def _ProjectInternalId(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"id": "p", "internalId": "1"}}

    def _UpsertSweep(self, given: dict[str, Any]) -> dict[str, Any]:
        config = yaml.safe_load(given["config"])
        grid = {key: spec.get("values") or [spec["value"]] for key, spec in config["parameters"].items()}
        cells = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
        name = f"sweep{len(self.server_of_runs.sweeps)}"
        self.server_of_runs.sweeps[name] = Sweep(config, cells)
        project = {"id": "p", "name": given["projectName"] or "uncategorized", "entity": {"id": "e", "name": "tester"}}
        return {"upsertSweep": {"sweep": {"name": name, "project": project}, "configValidationWarnings": []}}

    def _SweepWithRuns(self, given: dict[str, Any]) -> dict[str, Any]:
        sweep = self.server_of_runs.sweeps[given["sweep"]]
        content = {"id": given["sweep"], "name": given["sweep"], "method": "grid", "state": "RUNNING",
                   "config": yaml.safe_dump(sweep.config), "runs": {"edges": []}}  # fmt: skip
        return {"project": {"sweep": content}}

    def _CreateAgent(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"createAgent": {"agent": {"id": f"agent-of-{given['sweep']}"}}}

    def _Heartbeat(self, given: dict[str, Any]) -> dict[str, Any]:
        name = given["id"].removeprefix("agent-of-")
        sweep, commands = self.server_of_runs.sweeps[name], []
        running = json.loads(given["runState"])
        for run_id in sweep.stop & set(running):
            commands.append({"type": "stop", "run_id": run_id})
        if not running:
            if sweep.requeued:
                run_id = sweep.requeued.pop()
            elif sweep.cells:
                run_id = f"{name}-{len(sweep.started)}"
                sweep.started[run_id] = sweep.cells.pop(0)
            else:
                run_id = ""
            args = {key: {"value": value} for key, value in sweep.started.get(run_id, {}).items()}
            program = sweep.config.get("program")
            run = {"type": "run", "run_id": run_id, "program": program, "args": args}
            commands.append(run if run_id else {"type": "exit"})
        agent = {"agent": {"id": given["id"]}, "commands": json.dumps(commands)}
        return {"agentHeartbeat": agent}

    def _RunFiles(self, given: dict[str, Any]) -> dict[str, Any]:
        run = self.server_of_runs.runs[given.get("name") or given["run"]]
        wanted = given.get("fileNames") or list(run.files)
        storage = f"{self.server_of_runs.url}/storage/{given.get('name') or given['run']}"
        nodes = [
            {"id": name, "name": name, "url": f"{storage}/{name}", "directUrl": f"{storage}/{name}", "md5": "",
             "sizeBytes": len(run.files[name]), "mimetype": "", "updatedAt": "2026-01-01T00:00:00Z"}
            for name in wanted if name in run.files
        ]  # fmt: skip
        files = {"edges": [{"node": node, "cursor": "1"} for node in nodes],
                 "pageInfo": {"endCursor": "1", "hasNextPage": False}}  # fmt: skip
        return {"project": {"internalId": "1", "run": {"fileCount": len(nodes), "files": files}}}

    def _CreateRunFiles(self, given: dict[str, Any]) -> dict[str, Any]:
        url = f"{self.server_of_runs.url}/storage/{given['run']}"
        files = [{"name": name, "uploadUrl": f"{url}/{name}"} for name in given["files"]]
        return {"createRunFiles": {"runID": _id(given["run"]), "uploadHeaders": [], "files": files}}

    def _file_stream(self, name: str, content: dict[str, Any]) -> None:
        with self.server_of_runs.lock:
            run = self.server_of_runs.runs[name]
            for file, chunk in (content.get("files") or {}).items():
                lines = run.lines.setdefault(file, {})
                lines |= dict(enumerate(chunk["content"], start=chunk["offset"]))
                if file == "wandb-summary.json":
                    run.summary = json.loads(lines[max(lines)])
            run.preempting = run.preempting or bool(content.get("preempting"))
            if content.get("complete"):
                run.exit_code = content.get("exitcode")
            self._answer(200, {})


def _matches(run: Run, filters: dict[str, Any]) -> bool:
    """The few of W&B's filters that are used here: equality of config values, and $and."""
    for key, wanted in filters.items():
        if key == "$and":
            if not all(_matches(run, each) for each in wanted):
                return False
        elif run.values().get(key.removeprefix("config.").removesuffix(".value")) != wanted:
            return False
    return True


def _id(name: str) -> str:
    return f"id-{name}"


def main() -> None:
    """Serve until Ctrl-C, for a client in another terminal."""
    with serving() as server:
        print(f"export WANDB_BASE_URL={server.url} WANDB_API_KEY={KEY}", flush=True)
        with suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
